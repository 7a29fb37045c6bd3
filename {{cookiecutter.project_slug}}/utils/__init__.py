"""Utilities of all layers: errors, files, signals, the device, random numbers, processes."""
