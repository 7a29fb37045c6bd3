"""Evaluations of trained models: what evaluate.py reports and saves."""
