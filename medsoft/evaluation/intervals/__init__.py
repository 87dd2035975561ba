"""Confidence intervals: bootstrap and DeLong."""
