"""Trainers: what a training step and an evaluation step compute."""
