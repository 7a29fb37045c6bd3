"""Columns of dates: their notation, and their parts as numbers."""

import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from data_loader.tables import Table
from utils.errors import UserError

if TYPE_CHECKING:
    from pandas import Series

ISO = "ISO8601"  # the name that pandas has for it
ISO_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?: ?(?:Z|[+-][0-9]{2}:?[0-9]{2}))?)?"
)
DAYS = (
    "%Y/%m/%d",
    "%Y%m%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d-%b-%Y",
)
TIMES = ("", " %H:%M", " %H:%M:%S")
YEAR = "[ -~]*[0-9]{4}[ -~]*"  # which all notations contain
PATTERNS = {ISO: ISO_PATTERN, "%Y%m%d": "[0-9]{8}"}
SAMPLE_ROWS = 100  # exclude most notations
PARTS = ("year", "month", "day", "day_of_week", "hour")


def date_notation(rows: Table, column: str, day_first: bool | None) -> str:
    """The notation of the dates in a column.

    Args:
        rows: rows of the table.
        column: name of the column.
        day_first: whether the day is before the month, as in 31/12/2020; None if it is to be
            detected.

    Returns:
        The notation, as `strftime` has it, or "ISO8601"; an empty text if most of the values are
        not dates.

    Raises:
        UserError: if the order of day and month is ambiguous.
    """
    cells = rows.known_cells(column)
    sample = cells.iloc[:SAMPLE_ROWS]
    if not sample.str.fullmatch(YEAR).any():
        return ""
    candidates = [ISO, *(day + time for day, time in product(DAYS, TIMES))]
    if day_first is not None:
        excluded = "%m" if day_first else "%d"
        candidates = [name for name in candidates if not re.match(excluded + "[-/]", name)]
    candidates = _best_notations(sample, candidates)
    candidates = _best_notations(cells, candidates)
    if not candidates:
        return ""
    is_month_of_may = any("%B" in candidate for candidate in candidates)  # it also fits %b
    if len(candidates) > 1 and not is_month_of_may:
        raise UserError(
            f"{rows.locate(0, column)}: all dates, such as {cells.iloc[0]!r}, can mean "
            f"{' or '.join(candidates)}; set data.day_first to true or false"
        )
    return candidates[0]


def _best_notations(cells: "Series", candidates: Sequence[str]) -> list[str]:
    """The notations that fit most of some cells, and more than half of them."""
    counts = {}
    for candidate in candidates:
        counts[candidate] = int(parse_dates(cells, candidate).notna().sum())
    most = max(counts.values(), default=0)
    if most <= len(cells) / 2:
        return []
    return [candidate for candidate, count in counts.items() if count == most]


def parse_dates(cells: "Series", notation: str) -> "Series":
    """Converts texts to UTC times without a time zone; NaT for what is not a date."""
    import pandas

    pattern = PATTERNS.get(notation, YEAR)
    texts = cells.where(cells.str.fullmatch(pattern))
    return pandas.to_datetime(texts, format=notation, errors="coerce", utc=True)


def read_dates(rows: Table, column: str, notation: str) -> "Series":
    """Converts a column of dates to times; NaT for missing values.

    Raises:
        UserError: if a cell is not a date in this notation.
    """
    cells = rows.cells(column)
    is_missing = rows.is_missing(column)
    dates = parse_dates(cells.mask(is_missing), notation)
    is_invalid = dates.isna().to_numpy() & ~is_missing
    if is_invalid.any():
        position = int(is_invalid.argmax())
        raise UserError(
            f"{rows.locate(position, column)}: {cells.iloc[position]!r} is not a date in the "
            f"notation {notation} of the other rows; correct it, add it to data.missing, or add "
            "the column to data.ignore"
        )
    return dates


def date_parts(dates: "Series", first: str) -> dict[str, Any]:
    """The parts of dates as numbers.

    Args:
        dates: the result of `read_dates`.
        first: the date from which the seconds of `elapsed` are counted, in ISO notation.

    Returns:
        float64, shape (N,), NaN for missing dates, for each of `PARTS` and for `elapsed`. Monday is
        day 0 of the week.
    """
    import pandas

    elapsed = (dates - pandas.Timestamp(first)) / pandas.Timedelta(seconds=1)
    parts = {name: getattr(dates.dt, name) for name in PARTS}
    parts["elapsed"] = elapsed
    return {name: values.to_numpy(dtype=np.float64, copy=True) for name, values in parts.items()}
