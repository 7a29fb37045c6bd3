"""Work with many runs: comparisons and their reports. Nothing here imports torch."""
