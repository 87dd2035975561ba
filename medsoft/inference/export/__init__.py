"""A trained model for other machines and runtimes."""
