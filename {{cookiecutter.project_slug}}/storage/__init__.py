"""What a run leaves on the disk: its folder, its checkpoints, exported models."""
