"""What every network can do besides computing: count, freeze and summarise its parameters."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from utils.errors import UserError


class BaseModel(ABC, nn.Module):
    """A network; its constructor's arguments are settings."""

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """The network's outputs for a batch of inputs, shape (N, ...)."""

    def count_parameters(self, trainable: bool = False) -> int:
        """The number of parameters, or of those alone that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)

    def freeze(self, patterns: Iterable[str]) -> None:
        """Excludes the parameters whose names match a pattern from training.

        Raises:
            UserError: if a pattern matches no parameter.
        """
        parameters = dict(self.named_parameters())
        for pattern in patterns:
            names = [name for name in parameters if fnmatchcase(name, pattern)]
            if not names:
                layers = ", ".join(dict.fromkeys(f"{name.split('.')[0]}.*" for name in parameters))
                raise UserError(f"model.freeze: {pattern!r} matches no parameter; try {layers}")
            for name in names:
                parameters[name].requires_grad_(False)

    @torch.no_grad()
    def summary(self, input: Tensor) -> list[tuple[str, str, str]]:
        """A row for each layer that has parameters: name, output shape for `input`, parameters."""
        rows = [("layer", "output shape", "parameters")]
        own = {m: sum(p.numel() for p in m.parameters(recurse=False)) for m in self.modules()}
        names = {m: f"{name} ({type(m).__name__})" for name, m in self.named_modules() if own[m]}

        def note(layer: nn.Module, _: object, output: Tensor) -> None:
            rows.append((names[layer], str(tuple(output.shape)), f"{own[layer]:,}"))

        hooks = [layer.register_forward_hook(note) for layer in names]
        training = self.training
        self.eval()(input)  # in evaluation mode, so that running statistics stay as they are
        self.train(training)
        for hook in hooks:
            hook.remove()
        total, trained = self.count_parameters(), self.count_parameters(trainable=True)
        frozen = f" ({total - trained:,} frozen)" if trained < total else ""
        return [*rows, ("total", "", f"{total:,}{frozen}")]
