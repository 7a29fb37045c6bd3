"""Columns of tables: numbers, classes, and the cells that are refused."""
# ruff: noqa: D103  the names of the tests say what they test

import math

import pytest
import torch

from data_loader.columns import class_indices, mean_and_std, parse_number, read_numbers
from utils.errors import UserError


def message_of(error: pytest.ExceptionInfo[UserError]) -> str:
    assert error.value.exit_code == 2
    return str(error.value)


def test_only_finite_numbers_in_the_range_of_float32_are_parsed() -> None:
    assert parse_number("1e3") == 1000
    assert parse_number(" -2 ") == -2
    for text in ("x", "inf", "nan", "1e39"):
        assert parse_number(text) is None
    empty = parse_number(" ")
    assert empty is not None
    assert math.isnan(empty)


def test_missing_numbers_are_nan_where_they_are_allowed() -> None:
    rows = [{"a": "1"}, {"a": " "}]
    numbers = read_numbers(rows, "a", allow_missing=True)
    assert numbers.dtype == torch.float64
    assert torch.equal(numbers.isnan(), torch.tensor([[False], [True]]))
    with pytest.raises(UserError) as error:
        read_numbers(rows, "a")
    for part in ("'a'", "row 2", "' '"):
        assert part in message_of(error)


def test_a_cell_that_is_not_a_number_is_refused_with_its_position() -> None:
    with pytest.raises(UserError) as error:
        read_numbers([{"a": "1,5"}], "a", allow_missing=True)
    for part in ("'a'", "row 1", "'1,5'", "not a number"):
        assert part in message_of(error)


def test_the_standard_deviation_of_equal_numbers_is_replaced_by_one() -> None:
    assert mean_and_std(torch.tensor([3.0, 3.0])) == (3, 1)
    assert mean_and_std(torch.tensor([1.0, 3.0])) == (2, 1)
    assert mean_and_std(torch.tensor([1.0, 5.0])) == (3, 2)
    # The mean of many times 0.1 is another number, from which all would differ.
    assert mean_and_std(torch.full((1000,), 0.1, dtype=torch.float64)) == (0.1, 1)


@pytest.mark.parametrize(
    ("offset", "unit"), [(0, 1e-30), (0, 1e30), (1.7e9, 0.01), (1e15, 1), (-1, 1e-9)]
)
def test_mean_and_standard_deviation_scale_with_offset_and_unit(offset: float, unit: float) -> None:
    numbers = torch.arange(100, dtype=torch.float64)
    mean, std = mean_and_std(offset + unit * numbers, "x")
    assert mean == pytest.approx(offset + unit * 49.5)
    assert std == pytest.approx(unit * math.sqrt(833.25), rel=1e-5)


@pytest.mark.parametrize(("offset", "unit"), [(1e17, 1), (1, 1e-17), (0, 1e-60), (1.7e9, 1e-8)])
def test_numbers_that_differ_too_little_for_float64_are_an_error(
    offset: float, unit: float
) -> None:
    numbers = torch.arange(100, dtype=torch.float64)
    numbers[-1] = 1000
    with pytest.raises(UserError, match=r"'x'.* float64"):
        mean_and_std(offset + unit * numbers, "x")


def test_classes_are_in_alphabetical_order() -> None:
    names, targets = class_indices([{"a": name} for name in "bacbbaaaabbb"], "a")
    assert names == ["a", "b", "c"]
    assert targets.tolist() == [1, 0, 2, 1, 1, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        (["x", "y", ""], ["row 3", "no class"]),
        (["x", "x", "x"], ["only one class", "'x'"]),
        (["0", "1", "2", "3", "4", "5", "6", "7", "8"], ["9 classes", "9 rows", "'0'"]),
    ],
)
def test_a_column_that_has_no_usable_classes_is_refused(cells: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        class_indices([{"a": cell} for cell in cells], "a")
    for part in ("'a'", *parts):
        assert part in message_of(error)
