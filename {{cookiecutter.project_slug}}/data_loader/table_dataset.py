"""The abstract data set of the rows of a table, with the settings of its notation."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from weakref import WeakValueDictionary

import torch
from pydantic import Field
from torch import Tensor

from base.base_dataset import BaseDataset, list_names
from data_loader.columns import class_positions
from data_loader.table_format import MISSING, SEPARATORS, TableFormat
from data_loader.tables import Table, example_maker, file_hash, read_table
from data_loader.unicode_forms import find_file, normalize_cell
from logger.console import log
from utils.errors import DATA_UNAVAILABLE, UserError

DELIMITER = r"^([^\"\r\n]|comma|semicolon|tab|bar|space)?$"
MIN_ROWS = 20  # fewer cannot be divided into splits
# The table of a file, by file, content, columns that it must have, and format. The data sets of all
# splits share it, and it is released with the last of them.
_shared_tables: WeakValueDictionary[tuple[Path, str, tuple[str, ...], TableFormat], Table]
_shared_tables = WeakValueDictionary()


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
        create_example: whether the file of the example may be created; only a new run does it.

    Attributes:
        rows: the rows of the split.
        all_rows: those of all splits, without rows that are left out.
        target: the column of the targets.
    """

    rows: Table
    all_rows: Table
    target: str
    targets: Tensor

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
        create_example: bool = True,
    ) -> None:
        self.table_format = TableFormat(
            delimiter=SEPARATORS.get(delimiter, delimiter),
            encoding=encoding,
            quotes=quotes,
            decimal=SEPARATORS.get(decimal, decimal),
            thousands=SEPARATORS.get(thousands, thousands),
            missing=tuple(normalize_cell(text) for text in missing),
        )
        if self.table_format.decimal == self.table_format.thousands:
            raise UserError(
                f"data.decimal and data.thousands are both {self.table_format.decimal!r}; set them "
                "to different separators"
            )
        self.drop_missing_target = drop_missing_target
        self.create_example = create_example

    def read_rows(
        self,
        root: Path,
        file: str,
        split: str,
        columns: Sequence[str],
        examples: Mapping[str, Callable[[Path], None]],
    ) -> Table:
        """Reads the rows of all splits, without those that are to be left out.

        Args:
            root: folder of the data.
            file: file of the table in this folder.
            split: train, validation or test.
            columns: names of columns that the file must have; `target` is one of them.
            examples: functions that write a file of an example, by file.

        Raises:
            UserError: if the file does not exist, is not such a table, or has too few rows.
        """
        path = find_file(root / file)
        make = example_maker(root, file, examples, self.create_example)
        if make is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            log.info("created the data of this example, a template for your own: %s", path)
        if not path.exists():
            place = ""
            if not path.is_absolute():
                place = f" in {Path.cwd()}"
            raise UserError(
                f"{path} does not exist{place}; set data.file to your own file, and data.root to "
                "its folder",
                DATA_UNAVAILABLE,
            )
        self.source = file_hash(path)
        rows = self._shared_rows(path, tuple(columns))
        if self.drop_missing_target:
            is_missing = torch.tensor(rows.is_missing(self.target))
            if is_missing.any() and split != "validation":  # which is read right after training
                log.info(
                    "%s: %d of %d rows have no value in column %r and are left out",
                    path,
                    int(is_missing.sum()),
                    len(rows),
                    self.target,
                )
            rows = rows.take((~is_missing).nonzero().squeeze(1))
        if len(rows) < MIN_ROWS:
            raise UserError(
                f"{path} has {len(rows)} rows; splits need at least {MIN_ROWS}, so add some"
            )
        self.all_rows = rows
        return rows

    def _shared_rows(self, path: Path, columns: tuple[str, ...]) -> Table:
        """Reads all rows of a file, unless a data set of another split has done so."""
        key = (path, self.source, columns, self.table_format)
        rows = _shared_tables.get(key)
        if rows is None:
            rows = read_table(path, columns, self.table_format)
            _shared_tables[key] = rows
        return rows

    def use_classes(self, classes: Sequence[str]) -> None:
        """Accepts a file that lacks some of the classes of the training data."""
        if not self.classes or not classes:  # one of them has numbers to predict
            super().use_classes(classes)
        cells = self.rows.cells(self.target)
        targets = class_positions(cells, classes, self.rows.table_format)
        is_unknown = targets < 0
        if is_unknown.any():
            position = int(is_unknown.int().argmax())
            raise UserError(
                f"{self.rows.locate(position, self.target)}: {cells.iloc[position]!r} is a class "
                f"that the model was not trained with; it knows {list_names(classes)}"
            )
        self.targets = targets

    def sample_name(self, index: int) -> str:
        """The place of the row in its file, such as "line 12"."""
        return self._places[index]

    @cached_property
    def _places(self) -> list[str]:
        return self.rows.places()
