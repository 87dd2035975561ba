"""TIFF files of images and slides: their pages, with one rule for tiled and untiled files, and their pixels."""
