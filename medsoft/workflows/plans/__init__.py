"""The verbs ``plan`` and ``auto``."""
