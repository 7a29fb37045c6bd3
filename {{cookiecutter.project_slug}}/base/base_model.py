"""What every network can do besides computing: count, freeze and summarise its parameters."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.errors import UserError


class BaseModel(nn.Module, ABC):
    """A network; its constructor's arguments are settings."""

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """The network's outputs for a batch of inputs, shape (N, ...)."""

    def initialize(self) -> None:
        """Called for a new model, not for a saved one: takes weights from elsewhere, say."""

    def train(self, mode: bool = True) -> Self:
        """As any module does, but that frozen batch normalisation stays as it is evaluated."""
        super().train(mode)
        for part in self.modules():
            weight = part.weight if isinstance(part, _BatchNorm) else None
            if weight is not None and not weight.requires_grad:
                part.eval()
        return self

    def count_parameters(self, trainable: bool = False) -> int:
        """The number of parameters, or of those alone that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)

    def freeze(self, patterns: Iterable[str]) -> None:
        """Excludes the parameters whose names match a pattern from training.

        Raises:
            UserError: if a pattern matches no parameter.
        """
        for pattern in patterns:
            found = [p for name, p in self.named_parameters() if fnmatchcase(name, pattern)]
            if not found:
                layers = (name for name, part in self.named_children() if list(part.parameters()))
                choice = ", ".join(f"{name}.*" for name in layers)
                raise UserError(f"model.freeze: {pattern!r} matches no parameter; try {choice}")
            for parameter in found:
                parameter.requires_grad_(False)
        self.train(self.training)

    def summary(self) -> list[tuple[str, str, str]]:
        """Rows of a table, the header first: layer, shape and number of its parameters."""
        frozen = self.count_parameters() - self.count_parameters(trainable=True)
        total = f"{self.count_parameters():,}" + (f" ({frozen:,} frozen)" if frozen else "")
        rows = [(k, str(tuple(p.shape)), f"{p.numel():,}") for k, p in self.named_parameters()]
        return [("layer", "shape", "parameters"), *rows, ("total", "", total)]
