"""Time of encoders, by what computes them."""
