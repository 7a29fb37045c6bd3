"""Losses."""

from torch import Tensor
from torch.nn import functional as fn


def cross_entropy(
    logits: Tensor, target: Tensor, smoothing: float = 0.0, reduction: str = "none"
) -> Tensor:
    """Cross entropy of each sample, float32, shape (N,), or reduced: their ``"mean"``, a scalar.

    Args:
        logits: shape (N, C).
        target: classes, int64, shape (N,), or shares of the classes, floats, shape (N, C).
        smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7).
        reduction: none, mean or sum.
    """
    return fn.cross_entropy(logits.float(), target, reduction=reduction, label_smoothing=smoothing)
