"""What happens to a model around its training: weights from elsewhere."""
