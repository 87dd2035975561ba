"""Slides from scanner files: levels, resolution, pixels."""
