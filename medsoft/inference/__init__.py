"""Uses of a trained model: attributions, whole slides, export."""
