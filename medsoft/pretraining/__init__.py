"""Pretraining without labels: a backbone learns from a teacher's features, or from views of the same image."""
