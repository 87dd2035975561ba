"""Predicted boxes as files, and back."""
