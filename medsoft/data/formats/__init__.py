"""Integrity checks of image and volume formats, each in one place for all readers."""
