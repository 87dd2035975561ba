"""Sections of the report that have a module of their own: what each says, as plain values."""
