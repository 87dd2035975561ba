"""Processes, signals, logging, progress, and what is printed."""
