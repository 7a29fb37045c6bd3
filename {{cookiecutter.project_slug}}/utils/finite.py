"""The search for NaN and infinity in nested tensors."""

from typing import Any

from utils.errors import NonFiniteError
from utils.nested import named_tensors
from utils.parallel import local_tensor
from utils.process_group import all_gather_object


def check_finite(state: Any, prefix: str) -> None:
    """Raises a NonFiniteError in all processes if a tensor in any of them is not finite.

    Args:
        state: any nesting of dicts, lists and tuples; integers and booleans are always finite.
        prefix: what the message begins with.
    """
    for name in all_gather_object(find_non_finite(state)):
        if name is not None:
            raise NonFiniteError(f"{prefix} {name} is not finite")


def find_non_finite(state: Any) -> str | None:
    """The path of the first tensor of this process with NaN or infinity; None without one."""
    for name, tensor in named_tensors(state):
        has_fraction = tensor.is_floating_point() or tensor.is_complex()
        if has_fraction and not local_tensor(tensor).isfinite().all():
            return name
    return None
