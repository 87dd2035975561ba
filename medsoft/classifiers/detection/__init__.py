"""What Lightning trains for boxes: networks, losses, and the writing of boxes."""
