"""Pretrained encoders: recipes, weights, and applying them."""
