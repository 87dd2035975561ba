"""Compressed tiles of a slide's file decoded directly, several times faster than OpenSlide, which stays the truth."""
