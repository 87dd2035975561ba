"""A run in an experiment tracker: through which logger, and what leaves it."""
