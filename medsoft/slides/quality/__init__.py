"""Whether tiles are fit to be used: blur, folds, air bubbles and pen."""
