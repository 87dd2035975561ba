"""Feature files that other tools wrote."""
