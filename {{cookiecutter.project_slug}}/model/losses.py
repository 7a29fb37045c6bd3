"""Losses."""

from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each sample, float32, shape (N,).

    Args:
        logits: shape (N, C).
        target: classes, int64, shape (N,).
        label_smoothing: share of the target spread over all classes (arXiv:1512.00567, section 7).
    """
    return functional.cross_entropy(
        logits.float(), target, reduction="none", label_smoothing=label_smoothing
    )
