from typing import Any

Metric = Any


def scalar_results(results):
    return {name: value.item() for name, value in results.items() if value.numel() == 1}


def higher_is_better(metrics, name):
    own = getattr(metrics, "higher_is_better", None)
    if callable(own):
        return own(name)
    return getattr(metrics[name], "higher_is_better", None)
