"""Modules that own weights: attention of one contract, and blocks built from it."""
