"""The abstract data set of the rows of a table, with the settings of its notation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from base.base_dataset import BaseDataset
from data_loader.table_format import MISSING, SEPARATORS, TableFormat
from data_loader.tables import Table, read_table
from logger.console import log
from utils.errors import DATA_UNAVAILABLE, UserError

DELIMITER = r"^([^\"\r\n]|comma|semicolon|tab|bar|space)?$"
MIN_ROWS = 20  # fewer cannot be divided into splits


class TableDataset(BaseDataset):
    """Rows of a table, which is a file in CSV, Excel, Parquet or Feather format.

    Args:
        delimiter: Character between two cells of a text file, or comma, semicolon, tab, bar or
            space; empty to detect it.
        encoding: Encoding of a text file, such as cp1252. If empty, the byte order mark decides;
            without one, it is UTF-8.
        quotes: Whether cells may be in quotation marks; false if these are part of the text.
        decimal: Decimal separator of numbers: point or comma.
        thousands: Thousands separator of numbers: none, point, comma, space or apostrophe.
        missing: Texts of cells that count as empty.
        drop_missing_target: Whether rows without a target are left out; otherwise, they are an
            error.
    """

    def __init__(
        self,
        *,
        delimiter: Annotated[str, Field(pattern=DELIMITER)] = "",
        encoding: str = "",
        quotes: bool = True,
        decimal: Literal["point", "comma", ".", ","] = "point",
        thousands: Literal[
            "none", "point", "comma", "space", "apostrophe", "", ".", ",", " ", "'"
        ] = "none",
        missing: tuple[str, ...] = MISSING,
        drop_missing_target: bool = False,
    ) -> None:
        self.table_format = TableFormat(
            delimiter=SEPARATORS.get(delimiter, delimiter),
            encoding=encoding,
            quotes=quotes,
            decimal=SEPARATORS.get(decimal, decimal),
            thousands=SEPARATORS.get(thousands, thousands),
            missing=missing,
        )
        if self.table_format.decimal == self.table_format.thousands:
            raise UserError(
                f"data.decimal and data.thousands are both {self.table_format.decimal!r}; set them "
                "to different separators"
            )
        self.drop_missing_target = drop_missing_target

    def read_rows(
        self,
        file: Path,
        split: str,
        columns: Sequence[str],
        target: str,
        make: Callable[[Path], None] | None,
    ) -> Table:
        """Reads the rows of the data set's file, without those that are to be left out.

        Args:
            file: file of the table.
            split: train, validation or test; the rows are those of all splits.
            columns: names of columns that the file must have.
            target: the column of the targets.
            make: function that writes the file if it does not exist; None for a file of the user.

        Raises:
            UserError: if the file does not exist, is not such a table, or has too few rows.
        """
        if make is not None and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            make(file)
            log.info("created the data of this example, a template for your own: %s", file)
        if not file.exists():
            raise UserError(
                f"{file} does not exist; set data.file to your own file, and data.root to its "
                "folder",
                DATA_UNAVAILABLE,
            )
        rows = read_table(file, columns, self.table_format)
        if self.drop_missing_target:
            is_missing = torch.tensor(rows.is_missing(target))
            if is_missing.any() and split != "validation":  # which is read right after training
                log.info(
                    "%s: %d of %d rows have no value in column %r and are left out",
                    file,
                    int(is_missing.sum()),
                    len(rows),
                    target,
                )
            rows = rows.take((~is_missing).nonzero().squeeze(1))
        if len(rows) < MIN_ROWS:
            raise UserError(
                f"{file} has {len(rows)} rows; splits need at least {MIN_ROWS}, so add some"
            )
        return rows
