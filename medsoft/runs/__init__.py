"""What a training leaves on disk: its folder, checkpoints, facts and bundles."""
