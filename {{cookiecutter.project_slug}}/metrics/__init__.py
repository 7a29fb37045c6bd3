"""Metrics: how good the predictions of a model are."""
