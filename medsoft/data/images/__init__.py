"""Reads images from files, and writes pyramids."""
