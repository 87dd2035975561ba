"""Whole slides: reading, tissue, tiles, heatmaps. Knows no model."""
