"""Conversion between the units of the data, in float64, and standardized numbers, in float32.

Timestamps, large offsets and tiny differences need float64; a network computes in float32. So the
conversion is done in the data set and, for people, after the network: never inside it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError

MAX_STANDARDIZED = 1e15  # float32 also contains the square of such a number, and sums of squares


def standardize(values: Tensor, mean_and_std: tuple[float, float], column: str) -> Tensor:
    """Computes (value - mean) / std in float64.

    Args:
        values: float64, any shape; NaN is kept.
        mean_and_std: of the training rows.
        column: name of the column, for messages.

    Returns:
        float32, of the same shape.

    Raises:
        UserError: if a value is too far from the training rows for float32.
    """
    mean, std = mean_and_std
    standardized = (values - mean) / std
    is_far = standardized.abs() > MAX_STANDARDIZED
    if is_far.any():
        raise UserError(
            f"column {column!r}: {values[is_far][0].item()!r} is more than {MAX_STANDARDIZED:g} "
            f"standard deviations ({std:.6g}) away from the mean of the training rows "
            f"({mean:.6g}); correct it"
        )
    return standardized.float()


def restore(standardized: Tensor, means_and_stds: Sequence[tuple[float, float]]) -> Tensor:
    """Computes mean + std * value in float64.

    Args:
        standardized: on the CPU, shape (N, K) or (N, ..., K).
        means_and_stds: of each column; K items.

    Returns:
        float64, on the CPU, of the same shape.
    """
    means, stds = torch.tensor(means_and_stds, dtype=torch.float64).T
    return means + stds * standardized.double()


def describe_target(column: str, means_and_stds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Describes the units of the outputs, as plain data for exported files."""
    ((mean, std),) = means_and_stds
    return {
        "column": column,
        "mean": mean,
        "std": std,
        "note": "The network computes (value - mean) / std. In pt2 and ONNX files, the outputs are "
        "converted to values in the unit of the column, float64. With the weights alone "
        "(safetensors), compute mean + std * output, in float64.",
    }
