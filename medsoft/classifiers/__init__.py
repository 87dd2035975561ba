"""What Lightning trains: a network, its objective, and its out-of-distribution detector."""
