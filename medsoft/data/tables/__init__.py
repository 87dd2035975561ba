"""Sample tables: reading, labels, checks, splits and folds."""
