"""Curves through points: y for a given x.

Their parameters are for x and y of mean 0 and standard deviation 1, so that points of any unit are
learned alike; what goes in and comes out is in the units of the points.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count
from data_loader.points import Points


class Line(BaseModel):
    """A straight line: a slope and an offset.

    Args:
        dataset: what it is for: means and standard deviations of x and y.
    """

    def __init__(self, dataset: Points) -> None:
        super().__init__()
        self.units = Units(dataset)
        self.linear = nn.Linear(1, 1)

    def forward(self, input: Tensor) -> Tensor:
        """y, shape (N, 1), of x, shape (N, 1)."""
        return self.units.restore(self.linear(self.units.standardize(input)))

    def powers(self) -> list[float]:
        """The factors of 1 and x, in the units of the points."""
        return self.units.powers([self.linear.bias.item(), self.linear.weight.item()])


class Polynomial(BaseModel):
    """c₀ + c₁ x + c₂ x² + ..., whose coefficients are the parameters.

    Args:
        dataset: what it is for: means and standard deviations of x and y.
        degree: Highest power of x.
    """

    def __init__(self, dataset: Points, degree: Count = 3) -> None:
        super().__init__()
        self.units = Units(dataset)
        self.coefficients = nn.Parameter(torch.randn(degree + 1) / 10)

    def forward(self, input: Tensor) -> Tensor:
        """y, shape (N, 1), of x, shape (N, 1), by Horner's rule."""
        x = self.units.standardize(input)
        y = torch.zeros_like(x)
        for coefficient in self.coefficients.flip(0):
            y = y * x + coefficient
        return self.units.restore(y)

    def powers(self) -> list[float]:
        """The factors of 1, x, x², ..., in the units of the points."""
        return self.units.powers(self.coefficients.tolist())


class Units(nn.Module):
    """From the units of the points to mean 0 and standard deviation 1, and back."""

    x_mean_and_std: Tensor
    y_mean_and_std: Tensor

    def __init__(self, dataset: Points) -> None:
        super().__init__()
        self.register_buffer("x_mean_and_std", torch.tensor(dataset.x_mean_and_std))
        self.register_buffer("y_mean_and_std", torch.tensor(dataset.target_mean_and_std))

    def standardize(self, x: Tensor) -> Tensor:
        """What the parameters are for."""
        return (x - self.x_mean_and_std[0]) / self.x_mean_and_std[1]

    def restore(self, y: Tensor) -> Tensor:
        """What comes out, in the unit of y."""
        return self.y_mean_and_std[0] + self.y_mean_and_std[1] * y

    def powers(self, factors: Iterable[float]) -> list[float]:
        """From the factors of the powers of standardized x to those of x itself, that give y."""
        (x_mean, x_std), (y_mean, y_std) = (
            self.x_mean_and_std.tolist(),
            self.y_mean_and_std.tolist(),
        )
        standardized = np.polynomial.Polynomial([-x_mean / x_std, 1 / x_std])
        restored = np.polynomial.Polynomial([*factors])(standardized) * y_std + y_mean
        return [float(factor) for factor in restored.coef]
