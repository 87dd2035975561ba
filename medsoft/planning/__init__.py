"""What ``plan`` and ``auto`` decide: facts of a table, candidates that fit it, their cost, and which is taken."""
