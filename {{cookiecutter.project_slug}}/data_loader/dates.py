"""Columns of dates: their notation, and their parts as numbers."""

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from data_loader.tables import Table
from utils.errors import UserError

if TYPE_CHECKING:
    from pandas import Series

ISO = "ISO8601"
ISO_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?: ?(?:Z|[+-][0-9]{2}:?[0-9]{2}))?)?"
)
DAYS = (
    "%Y/%m/%d",
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
ASCII = r"[ -~]+"
DATE_LIKE = r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}(?:[T ].*)?"
PARTS = ("year", "month", "day", "weekday", "hour", "elapsed")


def date_notation(rows: Table, column: str, notation: str = "") -> str:
    """The notation of the dates in a column.

    Args:
        rows: rows of the table, of which at least one has a date.
        column: name of the column.
        notation: as `strftime` has it, if it is known; empty if it is to be detected.

    Returns:
        The notation, "ISO8601", or an empty text if not all cells are dates of one notation.

    Raises:
        UserError: if the order of day and month is ambiguous.
    """
    cells = rows.cells(column)[~rows.is_missing(column)]
    candidates = [notation]
    if not notation:
        candidates = [ISO, *(day + time for day, time in product(DAYS, TIMES))]
    # Most candidates are excluded by the first cell.
    for some in (cells.iloc[:1], cells):
        candidates = [other for other in candidates if parse_dates(some, other).notna().all()]
    months_with_names = [other for other in candidates if "%b" in other or "%B" in other]
    if len(candidates) > 1 and not months_with_names:
        raise UserError(
            f"{rows.locate(0, column)}: all dates, such as {cells.iloc[0]!r}, can mean "
            f"{' or '.join(candidates)}; set data.date_format to one of them, or the kind of the "
            f"column, as in 'data.kinds={{{column}: category}}'"
        )
    return candidates[0] if candidates else ""


def parse_dates(cells: "Series", notation: str) -> "Series":
    """Converts texts to UTC times without a time zone; NaT for what is not a date."""
    import pandas

    pattern = ISO_PATTERN if notation == ISO else ASCII
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
        float64, shape (N,), NaN for missing dates, for each of `PARTS`. Monday is weekday 0.
    """
    import pandas

    elapsed = (dates - pandas.Timestamp(first)) / pandas.Timedelta(seconds=1)
    parts = {name: getattr(dates.dt, name) for name in PARTS[:-1]}
    parts["elapsed"] = elapsed
    return {name: values.to_numpy(dtype=np.float64) for name, values in parts.items()}
