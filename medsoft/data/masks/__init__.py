"""Masks: files with the class of every pixel, read and checked."""
