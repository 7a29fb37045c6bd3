"""Losses."""

from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Tensor, target: Tensor, label_smoothing: float = 0.0, reduction: str = "none"
) -> Tensor:
    """Computes the cross entropy in float32, also under autocast.

    Args:
        logits: shape (N, C).
        target: class indices, int64, shape (N,), or class probabilities, floats, shape (N, C).
        label_smoothing: weight of the uniform distribution that is mixed into the target
            (arXiv:1512.00567, section 7).
        reduction: none, mean or sum.

    Returns:
        The loss of each sample, shape (N,), or a scalar if `reduction` is mean or sum.
    """
    return functional.cross_entropy(
        logits.float(), target, reduction=reduction, label_smoothing=label_smoothing
    )
