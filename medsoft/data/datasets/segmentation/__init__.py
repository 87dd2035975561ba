"""Images with masks, for training and for prediction on the grid of the input."""
