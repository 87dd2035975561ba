"""Segmentation models over whole slides: how they are loaded, and how many slides are worked on."""
