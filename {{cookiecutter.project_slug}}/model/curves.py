"""Models of curves y = f(x).

Their parameters refer to standardized x and y (mean 0, standard deviation 1), so one learning rate
suits data in any units. Inputs and outputs are in the units of the data.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count
from data_loader.points import Points


class Line(BaseModel):
    """A straight line.

    Args:
        dataset: data set that defines the means and standard deviations of x and y.
    """

    def __init__(self, dataset: Points) -> None:
        super().__init__()
        self.units = Standardization(dataset)
        self.linear = nn.Linear(1, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Computes y, shape (N, 1), from x, shape (N, 1)."""
        x = self.units.standardize(input)
        y = self.linear(x)
        return self.units.restore(y)

    def powers(self) -> list[float]:
        """Returns the coefficients of 1 and x in the units of the data."""
        coefficients = [self.linear.bias.item(), self.linear.weight.item()]
        return self.units.restore_coefficients(coefficients)


class Polynomial(BaseModel):
    """The polynomial c₀ + c₁ x + c₂ x² + ..., whose coefficients are the parameters.

    Args:
        dataset: data set that defines the means and standard deviations of x and y.
        degree: Degree of the polynomial.
    """

    def __init__(self, dataset: Points, degree: Count = 3) -> None:
        super().__init__()
        self.units = Standardization(dataset)
        self.coefficients = nn.Parameter(torch.randn(degree + 1) / 10)

    def forward(self, input: Tensor) -> Tensor:
        """Computes y, shape (N, 1), from x, shape (N, 1), by Horner's method."""
        x = self.units.standardize(input)
        y = torch.zeros_like(x)
        for coefficient in self.coefficients.flip(0):
            y = y * x + coefficient
        return self.units.restore(y)

    def powers(self) -> list[float]:
        """Returns the coefficients of 1, x, x², ... in the units of the data."""
        return self.units.restore_coefficients(self.coefficients.tolist())


class Standardization(nn.Module):
    """Converts x and y between the units of the data and mean 0, standard deviation 1."""

    x_mean_and_std: Tensor
    y_mean_and_std: Tensor

    def __init__(self, dataset: Points) -> None:
        super().__init__()
        self.register_buffer("x_mean_and_std", torch.tensor(dataset.x_mean_and_std))
        self.register_buffer("y_mean_and_std", torch.tensor(dataset.target_mean_and_std))

    def standardize(self, x: Tensor) -> Tensor:
        """Converts x from the units of the data."""
        return (x - self.x_mean_and_std[0]) / self.x_mean_and_std[1]

    def restore(self, y: Tensor) -> Tensor:
        """Converts standardized y to the units of the data."""
        return self.y_mean_and_std[0] + self.y_mean_and_std[1] * y

    def restore_coefficients(self, coefficients: Sequence[float]) -> list[float]:
        """Converts the coefficients of a polynomial, by power, to the units of the data."""
        x_mean, x_std = self.x_mean_and_std.tolist()
        y_mean, y_std = self.y_mean_and_std.tolist()
        standardized_x = np.polynomial.Polynomial([-x_mean / x_std, 1 / x_std])
        standardized_y = np.polynomial.Polynomial(coefficients)(standardized_x)
        y = standardized_y * y_std + y_mean
        return [float(coefficient) for coefficient in y.coef]
