"""Contributions of patches, slices and tiles to one logit."""
