"""Datasets and data modules of images, volumes and bags."""
