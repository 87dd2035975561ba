"""What a verb does, from beginning to end."""
