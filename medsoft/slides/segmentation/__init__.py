"""The class of every pixel of a slide: windows, their joined map, outlines and files."""
