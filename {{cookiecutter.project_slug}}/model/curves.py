"""Models of curves y = f(x).

Inputs, outputs and parameters refer to standardized x and y (mean 0, standard deviation 1), so one
learning rate suits data in any units.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count
from data_loader.points import Points

MAX_OFFSET = 10  # of x, in standard deviations, up to which the formula has powers of x itself


class Line(BaseModel):
    """A straight line.

    Args:
        dataset: data set that defines the means and standard deviations of x and y.
    """

    def __init__(self, dataset: Points) -> None:
        super().__init__()
        self.units = CurveUnits(dataset)
        self.origin = self.units.origin
        self.linear = nn.Linear(1, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Computes standardized y, shape (N, 1), from standardized x, shape (N, 1)."""
        y: Tensor = self.linear(input)
        return y

    def powers(self) -> list[float]:
        """Returns the coefficients in the units of the data; see `CurveUnits.origin`."""
        return self.units.restore([self.linear.bias.item(), self.linear.weight.item()])


class Polynomial(BaseModel):
    """The polynomial c₀ + c₁ x + c₂ x² + ..., whose coefficients are the parameters.

    Args:
        dataset: data set that defines the means and standard deviations of x and y.
        degree: Degree of the polynomial.
    """

    def __init__(self, dataset: Points, degree: Count = 3) -> None:
        super().__init__()
        self.units = CurveUnits(dataset)
        self.origin = self.units.origin
        self.coefficients = nn.Parameter(torch.randn(degree + 1) / 10)

    def forward(self, input: Tensor) -> Tensor:
        """Computes standardized y, shape (N, 1), from standardized x, shape (N, 1).

        It uses Horner's method.
        """
        y = torch.zeros_like(input)
        for coefficient in self.coefficients.flip(0):
            y = y * input + coefficient
        return y

    def powers(self) -> list[float]:
        """Returns the coefficients in the units of the data; see `CurveUnits.origin`."""
        return self.units.restore(self.coefficients.tolist())


class CurveUnits:
    """Converts the coefficients of a polynomial between standardized numbers and the data's units.

    Args:
        dataset: data set that defines the means and standard deviations of x and y.

    Attributes:
        origin: the coefficients in the units of the data are those of the powers of x - origin. It
            is 0 unless x has an offset, as timestamps have: powers of x itself would cancel out.
    """

    def __init__(self, dataset: Points) -> None:
        self.x_mean, self.x_std = dataset.x_mean_and_std
        ((self.y_mean, self.y_std),) = dataset.target_standardization
        self.origin = 0.0
        if abs(self.x_mean) > MAX_OFFSET * self.x_std:
            decimals = -math.floor(math.log10(self.x_std))
            self.origin = round(self.x_mean, decimals)

    def restore(self, coefficients: Sequence[float]) -> list[float]:
        """Converts coefficients, by power, to the units of the data."""
        shift = (self.origin - self.x_mean) / self.x_std
        standardized_x = np.polynomial.Polynomial([shift, 1 / self.x_std])
        standardized_y = np.polynomial.Polynomial(coefficients)(standardized_x)
        y = standardized_y * self.y_std + self.y_mean
        return [float(coefficient) for coefficient in y.coef]
