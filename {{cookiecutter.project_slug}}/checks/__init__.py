"""Checks of data, model and training before a run: what check.py prints."""
