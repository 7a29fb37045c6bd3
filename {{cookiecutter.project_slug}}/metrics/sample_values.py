"""Values of each sample of an evaluation, such as its prediction and its loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.process_group import all_gather_object

RESERVED_NAMES = ("index", "name")  # of the samples
ANSWERS = ("true", "predicted", "probability")  # values whose mean is no metric


class SampleValues:
    """Collects values of samples, which stay on their device until `compute` is called."""

    def __init__(self) -> None:
        self.indices: list[Tensor] = []
        self.values: dict[str, list[Tensor]] = {}
        self._computed: dict[str, Tensor] | None = None

    def update(self, indices: Tensor, values: Mapping[str, Tensor]) -> None:
        """Adds the values of a batch by name, each of shape (N,) or (N, K).

        Args:
            indices: those of the samples in their data set, int64, shape (N,).
            values: the same names for each batch.
        """
        self._computed = None
        self.indices.append(indices)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.detach())

    def compute(self) -> dict[str, Tensor]:
        """The values of the samples of all processes, on the CPU, in the order of the data set.

        The indices of the samples are under ``index``. The result is empty if there are no values.

        Raises:
            UserError: if a value is missing for some of the samples.
        """
        if self._computed is None:
            self._computed = self._gather()
        return self._computed

    def _gather(self) -> dict[str, Tensor]:
        local_values = {}
        for name, batches in {"index": self.indices, **self.values}.items():
            if batches:
                local_values[name] = torch.cat(batches).cpu()
        parts: dict[str, list[Tensor]] = {}
        for rank_values in all_gather_object(local_values):
            for name, value in rank_values.items():
                parts.setdefault(name, []).append(value)
        if not parts:
            return {}
        gathered = {name: torch.cat(values) for name, values in parts.items()}
        order = gathered["index"].argsort()
        for name, value in gathered.items():
            if len(value) != len(order):
                raise UserError(
                    f"record_samples got {name!r} for {len(value)} of {len(order)} samples; pass "
                    "the same values for each batch"
                )
        return {name: value[order] for name, value in gathered.items()}


def check_sample_values(values: Mapping[str, Any], source: str) -> None:
    """Checks that each value has one row for each sample of a batch.

    Args:
        values: values of the samples of a batch by name.
        source: the class and the method that passes them, for messages.

    Raises:
        UserError: that names the value.
    """
    counts = set()
    for name, value in values.items():
        is_tensor = isinstance(value, Tensor)
        is_valid = is_tensor and value.ndim in (1, 2) and not value.is_complex()
        if not is_valid or name in RESERVED_NAMES:
            form = f"({type(value).__name__})"
            if is_tensor:
                form = f"of shape {tuple(value.shape)}"
            raise UserError(
                f"{source}: record_samples got {name!r} {form}; pass tensors of real numbers, of "
                "shape (N,) or (N, K) for N samples, under other names than index and name"
            )
        counts.add(len(value))
    if len(counts) > 1:
        names = ", ".join(values)
        raise UserError(
            f"{source}: record_samples got values for {sorted(counts)} samples ({names}); pass one "
            "for each sample of the batch"
        )


def columns_of(samples: Mapping[str, Tensor], classes: Sequence[str]) -> dict[str, list[Any]]:
    """The values of samples as the columns of a table, with the names of classes.

    Args:
        samples: the result of `SampleValues.compute`.
        classes: names of the classes of integers called ``true`` and ``predicted``.
    """
    columns: dict[str, list[Any]] = {}
    for name, value in samples.items():
        if name == "index":
            continue
        is_class = name in ("true", "predicted") and not value.is_floating_point()
        if value.ndim == 1 and is_class and classes:
            columns[name] = [classes[label] for label in value.tolist()]
        elif value.ndim == 1:
            columns[name] = value.tolist()
        elif value.shape[1] == 1:
            columns[name] = value[:, 0].tolist()
        else:
            for number, column in enumerate(value.T):
                columns[f"{name}_{number}"] = column.tolist()
    return columns


def mean_values(samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The means of the floating-point values of shape (N,), except for those of answers."""
    means = {}
    for name, value in samples.items():
        if name not in ANSWERS and value.is_floating_point() and value.ndim == 1:
            means[name] = value.mean()
    return means
