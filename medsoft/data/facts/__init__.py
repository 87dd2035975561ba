"""Trivial facts of samples: how a picture, volume or slide was taken and stored, not what it shows."""
