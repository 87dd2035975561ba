"""Training: trainer, callbacks, processes."""
