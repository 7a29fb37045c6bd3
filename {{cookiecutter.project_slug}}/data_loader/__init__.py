"""Data sets, and the transforms of their batches."""
