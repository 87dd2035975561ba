"""Phantom slides, painted tile by tile."""
