"""Columns of tables: numbers, classes, and the cells that are refused."""
# ruff: noqa: D103  the names of the tests say what they test

import io
import math
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_loader.columns import (
    class_indices,
    has_numbers,
    mean_and_std,
    parse_number,
    read_numbers,
    text_positions,
)
from data_loader.table_format import TableFormat
from data_loader.tables import Table, write_rows
from utils.errors import UserError


def table_of(cells: list[str], **changes: Any) -> Table:
    """A table with the column `a`, as it is read from the file x.csv."""
    write_rows(Path("x.csv"), [["a", "row"], *([cell, k] for k, cell in enumerate(cells))])
    frame = pandas.DataFrame({"a": cells}, dtype="str")
    return Table(Path("x.csv"), TableFormat(**changes), frame)


def message_of(error: pytest.ExceptionInfo[UserError]) -> str:
    assert error.value.exit_code == 2
    return str(error.value)


def test_only_finite_numbers_in_the_range_of_float32_are_parsed() -> None:
    assert parse_number("1e3", TableFormat()) == 1000
    assert parse_number(" -2 ", TableFormat()) == -2
    for text in (
        "",
        " ",
        "x",
        "inf",
        "infinity",
        "nan",
        "1e39",
        "1_000",
        "１",
        "0x10",
        "1,5",
        "- 2",
    ):
        assert parse_number(text, TableFormat()) is None


def test_numbers_have_a_strict_notation_and_the_exact_value() -> None:
    cells = ["1", "-2.5", "+.5", "3.", "2e-3", "1E+5", "0.1", "9007199254740993"]
    numbers = read_numbers(table_of(cells), "a")
    assert numbers[:, 0].tolist() == [float(cell) for cell in cells]
    for cell in ("1_000", "inf", "Infinity", "１２", "0x1F", "1e39", "1 000", "1,000", "−5", "."):
        with pytest.raises(UserError) as error:
            read_numbers(table_of(["1", cell]), "a")
        for part in ("x.csv, line 3, column 'a'", repr(cell), "not a number"):
            assert part in message_of(error)


def test_separators_of_numbers_can_be_set() -> None:
    german = table_of(["1.234,5", "-7", "0,25", "1.000.000"], decimal=",", thousands=".")
    assert read_numbers(german, "a")[:, 0].tolist() == [1234.5, -7, 0.25, 1e6]
    spaced = table_of(["1 234.5", "12"], thousands=" ")
    assert read_numbers(spaced, "a")[:, 0].tolist() == [1234.5, 12]
    wide = table_of(["1\u00a0234,5", "1\u202f234\u2009567", "12"], decimal=",", thousands=" ")
    assert read_numbers(wide, "a")[:, 0].tolist() == [1234.5, 1234567, 12]
    assert parse_number("1\u00a0234,5", wide.table_format) == 1234.5
    swiss = table_of(["1'234", "1\u2019234"], thousands="'")
    assert read_numbers(swiss, "a")[:, 0].tolist() == [1234, 1234]
    for cell in ("12.34,5", "1.2345", "1,234.5"):
        with pytest.raises(UserError, match="not a number"):
            read_numbers(table_of([cell], decimal=",", thousands="."), "a")


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=8),
    st.sampled_from([(".", ","), (",", "."), (",", " "), (".", "'")]),
    st.sampled_from(["{:,.3f}", "{:.6e}", "{:+.2f}", "{!r}"]),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_numbers_are_those_that_pandas_reads(
    values: list[float], separators: tuple[str, str], notation: str
) -> None:
    decimal, thousands = separators
    names = str.maketrans({".": decimal, ",": thousands})
    cells = [notation.format(value).translate(names) for value in values]
    rows = table_of(cells, decimal=decimal, thousands=thousands)
    text = "\n".join(["a", *cells])
    expected = pandas.read_csv(io.StringIO(text), sep=";", decimal=decimal, thousands=thousands)
    assert read_numbers(rows, "a")[:, 0].tolist() == pytest.approx(expected["a"], rel=1e-15)


@pytest.mark.parametrize("cell", ["1,5", "1,234.5", "1.234,5", "1\u00a0234,5", "1\u2019234"])
def test_other_separators_are_refused_with_the_setting(cell: str) -> None:
    with pytest.raises(UserError) as error:
        read_numbers(table_of(["2", cell]), "a")
    for part in (repr(cell), "data.decimal", "data.thousands"):
        assert part in message_of(error)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2.5", "NA", ""], True),
        (["0", "0.5", "-3", "10"], True),
        (["1e-3", "2.5e7"], True),
        (["1e5", "0.5"], True),
        (["1", "x"], False),
        (["", "NA"], False),
        (["007", "12"], False),
        (["12", "12e5", "3"], False),
        (["3_42", "1_77"], False),
    ],
)
def test_identifiers_are_not_numbers(cells: list[str], expected: bool) -> None:
    assert has_numbers(table_of(cells), "a") == expected


def test_missing_numbers_are_nan_where_they_are_allowed() -> None:
    rows = table_of(["1", "", "NA"])
    numbers = read_numbers(rows, "a", allow_missing=True)
    assert numbers.dtype == torch.float64
    assert torch.equal(numbers.isnan(), torch.tensor([[False], [True], [True]]))
    with pytest.raises(UserError) as error:
        read_numbers(rows, "a")
    for part in ("x.csv, line 3,", "'a'", "empty", "data.drop_missing_target"):
        assert part in message_of(error)


def test_a_mark_of_a_missing_value_is_reported_as_it_is_written() -> None:
    for read in (read_numbers, class_indices):
        with pytest.raises(UserError) as error:
            read(table_of(["1", "NA"]), "a")
        for part in ("x.csv, line 3,", "'NA'", "data.missing", "data.drop_missing_target"):
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
    names, targets = class_indices(table_of([*"bacbbaaaabbb"]), "a")
    assert names == ["a", "b", "c"]
    assert targets.tolist() == [1, 0, 2, 1, 1, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        (["x", "y", ""], ["line 4", "no class"]),
        (["x", "x", "x"], ["only one class", "'x'"]),
        (["0", "1", "2", "3", "4", "5", "6", "7", "8"], ["9 classes", "9 rows", "'0'"]),
    ],
)
def test_a_column_that_has_no_usable_classes_is_refused(cells: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        class_indices(table_of(cells), "a")
    for part in ("x.csv", "'a'", *parts):
        assert part in message_of(error)


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["TRUE", "False", "true", "TRUE", "False", "FALSE"] * 2, ["False", "TRUE"]),
        (["1", "0.0", "1.0", "1", "0.0", "0"] * 2, ["0.0", "1"]),
        (["Park", "Hill", "Pa\u200brk", "Park", "Hill", "Hi\u00adll"] * 2, ["Hill", "Park"]),
        (["01", "1", "01", "01", "1", "1"] * 2, ["01", "1"]),
        (["1.5", "1.50", "1.5", "1.5", "1.50", "1.50"] * 2, ["1.5", "1.50"]),
    ],
)
def test_spellings_of_the_same_value_are_one_class(cells: list[str], names: list[str]) -> None:
    found, targets = class_indices(table_of(cells), "a")
    assert found == names
    first = targets[0].item()
    assert targets.tolist() == [first, 1 - first, first, first, 1 - first, 1 - first] * 2


def test_classes_are_found_in_the_spelling_of_another_program() -> None:
    other = table_of(["1.0", "0.0", "1", "2"])
    assert text_positions(other, "a", ["0", "1"]).tolist() == [1, 0, 1, -1]
    german = table_of(["1,0", "1.0"], decimal=",")
    assert text_positions(german, "a", ["1"]).tolist() == [0, -1]


@pytest.mark.parametrize(
    "pair", [("Yes", "yes"), ("a b", "a  b"), ("\uff21", "A"), ("x\u200dy", "xy")]
)
def test_classes_that_look_alike_cause_a_warning(
    pair: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    names, _ = class_indices(table_of([*pair] * 4), "a")
    assert names == sorted(pair)
    for part in ("x.csv", "'a'", repr(pair[0]), repr(pair[1])):
        assert part in caplog.text


def test_different_classes_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    class_indices(table_of(["cat", "dog", "01", "1"] * 4), "a")
    assert not caplog.records


def test_a_typographic_minus_sign_is_named() -> None:
    with pytest.raises(UserError, match="minus"):
        read_numbers(table_of(["-1", "\u22122"]), "a")
