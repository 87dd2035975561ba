"""Mathematics on tensors: pure functions, no weights."""
