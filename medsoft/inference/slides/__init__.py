"""Applies a trained slide classifier to slides, in this process or in many."""
