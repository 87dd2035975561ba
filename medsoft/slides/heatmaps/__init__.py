"""Heatmaps, regions and their files."""
