"""The verbs ``medsoft weights ...``."""
