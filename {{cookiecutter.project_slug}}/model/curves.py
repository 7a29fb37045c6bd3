"""Curves through points: y for a given x."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class Line(BaseModel):
    """y = slope · x + offset."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, input: Tensor) -> Tensor:
        """y, shape (N, 1), of x, shape (N, 1)."""
        y: Tensor = self.linear(input)
        return y


class Polynomial(BaseModel):
    """y = c₀ + c₁ x + c₂ x² + ..., whose coefficients are the parameters.

    Args:
        degree: Highest power of x.
    """

    def __init__(self, degree: Count = 3) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.randn(degree + 1) / 10)

    def forward(self, input: Tensor) -> Tensor:
        """y, shape (N, 1), of x, shape (N, 1), by Horner's rule."""
        y = torch.zeros_like(input)
        for coefficient in self.coefficients.flip(0):
            y = y * input + coefficient
        return y
