"""How boxes are evaluated: matches, average precision, FROC, and pictures of boxes."""
