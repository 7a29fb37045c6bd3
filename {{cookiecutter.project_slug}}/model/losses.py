"""Losses."""

from torch import Tensor
from torch.nn import functional as fn


def cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each sample, float32, shape (N,).

    Args:
        logits: shape (N, C).
        target: classes, int64, shape (N,).
        smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7).
    """
    return fn.cross_entropy(logits.float(), target, reduction="none", label_smoothing=smoothing)
