"""Tiles to features, slide by slide."""
