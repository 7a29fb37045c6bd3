"""Example data for tabular_csv.py: apartments for rent, made in code."""

from collections.abc import Sequence
from pathlib import Path

import torch

from data_loader.tables import write_rows
from utils.randomness import make_generator

ROWS = 3000
NOISE_STD = 60  # of the rent
DISTRICTS = ["Centre", "Harbour", "Hill", "North", "Park"]
HEATINGS = ["gas", "heat pump", "oil"]
HEADER = ["area_m2", "rooms", "floor", "year", "district", "heating", "rent", "level"]


def make_apartments(file: Path) -> None:
    """Writes a table of apartments in which some years and heatings are missing."""
    rng = make_generator(3)
    uniform = torch.rand(ROWS, 8, generator=rng).tolist()
    noise = (NOISE_STD * torch.randn(ROWS, generator=rng)).tolist()
    rows: list[Sequence[object]] = [HEADER]
    for numbers, error in zip(uniform, noise, strict=True):
        rows.append(_make_apartment(numbers, error))
    write_rows(file, rows)


def _make_apartment(uniform: Sequence[float], noise: float) -> list[object]:
    """Makes a row of the table from eight numbers between 0 and 1."""
    a, b, c, d, e, f, g, h = uniform
    area = 20 + 110 * a * (0.5 + b / 2)
    rooms = 1 + int(area / 28 + b / 2)
    floor = int(9 * c)
    year = int(1900 + 121 * d)
    district = int(5 * e)
    heating = int(3 * f)

    rent = 150 + area * (11 - 1.2 * district) + 8 * floor + (year - 1950)
    if HEATINGS[heating] == "heat pump":
        rent += 40
    rent = max(round(rent + noise), 100)
    if rent < 550:
        level = "low"
    elif rent < 850:
        level = "middle"
    else:
        level = "high"

    year_cell = "" if g < 0.08 else year
    heating_cell = "" if h < 0.05 else HEATINGS[heating]
    known = [f"{area:.1f}", rooms, floor, year_cell, DISTRICTS[district], heating_cell]
    return [*known, rent, level]


EXAMPLES = {"tabular/apartments.csv": make_apartments}
