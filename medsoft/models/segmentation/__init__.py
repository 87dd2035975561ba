"""Networks from volumes to logits of every voxel."""
