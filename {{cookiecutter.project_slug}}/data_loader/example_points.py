"""Example data for points.py: noisy points on a line or a sine, made in code."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from data_loader.tables import write_rows
from utils.randomness import make_generator

POINTS = 1200
NOISE_STD = 0.2


def make_line(file: Path) -> None:
    """Writes points around y = 2x + 3, for x from -5 to 5."""
    rng = make_generator(1)
    x = _random_x(5.0, rng)
    _write(file, x, 2 * x + 3 + _noise(rng))


def make_sine(file: Path) -> None:
    """Writes points around y = sin(x), for x from -π to π."""
    rng = make_generator(2)
    x = _random_x(torch.pi, rng)
    _write(file, x, x.sin() + _noise(rng))


def _random_x(limit: float, rng: Generator) -> Tensor:
    """Draws numbers from a uniform distribution between -limit and limit."""
    return (2 * torch.rand(POINTS, generator=rng) - 1) * limit


def _noise(rng: Generator) -> Tensor:
    """Draws numbers from a normal distribution."""
    return NOISE_STD * torch.randn(POINTS, generator=rng)


def _write(file: Path, x: Tensor, y: Tensor) -> None:
    """Writes the coordinates of points with four decimals."""
    rows = [("x", "y")]
    for x_value, y_value in zip(x.tolist(), y.tolist(), strict=True):
        rows.append((f"{x_value:.4f}", f"{y_value:.4f}"))
    write_rows(file, rows)


EXAMPLES = {"regression/line.csv": make_line, "regression/sine.csv": make_sine}
