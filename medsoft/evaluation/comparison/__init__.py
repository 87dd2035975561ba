"""Models compared on the same samples, and folds taken together."""
