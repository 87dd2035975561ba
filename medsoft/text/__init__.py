"""Text as people write it: CSV, and spellings of one value."""
