"""What outlives a run: its folder and its checkpoints."""
