"""What Lightning trains for masks: networks, losses, and the writing of masks."""
