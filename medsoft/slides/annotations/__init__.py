"""Regions that somebody drew on slides: read, brought into the slide's frame, and compared with tiles."""
