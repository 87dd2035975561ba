"""Boxes around objects in images: files of them, checks, and their way between the grids of input and model."""
