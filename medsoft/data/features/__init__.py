"""Bags of encoded tiles: feature files of medsoft and of other tools."""
