"""Turns a volume into the model's input."""
