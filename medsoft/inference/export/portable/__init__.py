"""Bundles outside medsoft: how to prepare an image, and a script that does it."""
