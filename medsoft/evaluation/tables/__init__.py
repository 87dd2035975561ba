"""Predictions tables: read, checked, grouped by exam and patient."""
