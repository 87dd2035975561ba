"""Images with boxes: one image a row, its boxes in a file of their own."""
