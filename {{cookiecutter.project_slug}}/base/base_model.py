"""Base class of all networks: counts, freezes and summarises parameters."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Self

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.errors import UserError


class BaseModel(nn.Module, ABC):
    """A network; the arguments of its constructor are settings."""

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for a batch, such as logits for images; any parameters and results.

        A trainer calls it in `training_step`, `evaluation_step` and `predict_step`.
        """

    def initialize(self) -> None:
        """Loads pretrained weights into a new model; not called for a saved one."""

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode, except that frozen batch normalisation stays in evaluation mode.

        In training mode, it would update its running statistics although its weights are frozen.
        """
        super().train(mode)
        for module in self.modules():
            if not isinstance(module, _BatchNorm) or module.weight is None:
                continue
            if not module.weight.requires_grad:
                module.eval()
        return self

    def count_parameters(self, trainable: bool = False) -> int:
        """Returns the number of parameters, or of the trainable ones alone."""
        count = 0
        for parameter in self.parameters():
            if parameter.requires_grad or not trainable:
                count += parameter.numel()
        return count

    def freeze(self, patterns: Iterable[str]) -> None:
        """Excludes the parameters whose names match a pattern from training.

        Raises:
            UserError: if a pattern matches no parameter.
        """
        for pattern in patterns:
            matches = [p for name, p in self.named_parameters() if fnmatchcase(name, pattern)]
            if not matches:
                raise UserError(
                    f"model.freeze: {pattern!r} matches no parameter; "
                    f"allowed are patterns such as {', '.join(self._layer_patterns())}"
                )
            for parameter in matches:
                parameter.requires_grad_(False)
        self.train(self.training)

    def _layer_patterns(self) -> list[str]:
        """Returns a pattern for each layer that has parameters."""
        patterns = []
        for name, module in self.named_children():
            if list(module.parameters()):
                patterns.append(f"{name}.*")
        return patterns

    def summary(self) -> list[tuple[str, str, str]]:
        """Returns a table of name, shape and size of each parameter; the first row is a header."""
        rows = [("layer", "shape", "parameters")]
        for name, parameter in self.named_parameters():
            rows.append((name, str(tuple(parameter.shape)), f"{parameter.numel():,}"))
        total = self.count_parameters()
        frozen = total - self.count_parameters(trainable=True)
        total_text = f"{total:,}"
        if frozen:
            total_text += f" ({frozen:,} frozen)"
        rows.append(("total", "", total_text))
        return rows
