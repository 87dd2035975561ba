"""The verbs ``medsoft data ...``."""
