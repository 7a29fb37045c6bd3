"""The abstract data set of the rows of a table, with the settings of its notation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from weakref import WeakValueDictionary

import torch
from pydantic import Field
from torch import Tensor

from base.base_dataset import BaseDataset, list_names
from data_loader.columns import class_indices, text_positions
from data_loader.splits import split_rows
from data_loader.table_format import MISSING, SEPARATORS, TableFormat
from data_loader.tables import Table, file_hash, read_table
from data_loader.unicode_forms import find_file, normalize_cell
from logger.console import log
from utils.errors import DATA_UNAVAILABLE, UserError

DELIMITER = r"^([^\"\r\n]|comma|semicolon|tab|bar|space)?$"
MIN_ROWS = 20  # fewer cannot be divided into splits
# File, content, columns that it must have, format, and the column without which rows are left out.
TableKey = tuple[Path, str, tuple[str, ...], TableFormat, str]
# The data sets of all splits share a table, and it is released with the last of them.
_shared_tables: WeakValueDictionary[TableKey, Table] = WeakValueDictionary()


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
        target: the column of the targets.
        all_rows: the rows of all splits, without those that are left out.
        rows: the rows of the split.
        targets: their classes (int64) or numbers (float64).
    """

    target: str
    all_rows: Table
    rows: Table
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
        columns: Sequence[str],
        examples: Mapping[str, Callable[[Path], None]],
    ) -> Table:
        """Reads `all_rows`, those of all splits, without those that are to be left out.

        Args:
            root: folder of the data.
            file: file of the table in this folder.
            columns: names of columns that the file must have; `target` is one of them.
            examples: functions that write a file of an example, by file.

        Raises:
            UserError: if the file does not exist, is not such a table, or has too few rows.
        """
        path = find_file(root / file)
        if file in examples and self.create_example and not path.exists():
            _check_no_other_tables(root, path, examples)
            path.parent.mkdir(parents=True, exist_ok=True)
            examples[file](path)
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
        if path.is_dir():
            raise UserError(f"data.file: {path} is a folder; set data.file to a table in it")
        self.source = file_hash(path)
        self.all_rows = self._shared_rows(path, tuple(columns))
        if len(self.all_rows) < MIN_ROWS:
            raise UserError(
                f"{path} has {len(self.all_rows)} rows; splits need at least {MIN_ROWS}, so add "
                "some"
            )
        return self.all_rows

    def _shared_rows(self, path: Path, columns: tuple[str, ...]) -> Table:
        """Reads the rows of a file, unless a data set of another split has done so."""
        required = self.target if self.drop_missing_target else ""
        key = (path, self.source, columns, self.table_format, required)
        rows = _shared_tables.get(key)
        if rows is None:
            rows = read_table(path, columns, self.table_format)
            if required:
                rows = _drop_missing(rows, required)
            _shared_tables[key] = rows
        return rows

    def read_classes(self, split: str) -> Tensor:
        """Reads the targets of `all_rows`, int64, shape (N,), and sets `classes`."""
        training = split == "train"
        self.classes, targets = class_indices(self.all_rows, self.target, training)
        return targets

    def select_rows(self, targets: Tensor, split: str, seed: int, stratify: bool = True) -> Tensor:
        """Sets `rows` and `targets` to those of a split.

        Args:
            targets: those of `all_rows`, shape (N,) or (N, 1).
            split: train, validation or test.
            seed: random seed that selects the validation rows.
            stratify: whether all splits have the same distribution of targets.

        Returns:
            Which of `all_rows` they are: sorted indices, int64.
        """
        # A file to evaluate may lack a class.
        classes = self.classes if split == "train" else ()
        indices = split_rows(targets.flatten(), split, seed, classes, stratify)
        self.rows = self.all_rows.take(indices)
        self.targets = targets[indices]
        return indices

    def use_classes(self, classes: Sequence[str]) -> None:
        """Accepts a file that lacks some of the classes of the training data."""
        if not self.classes or not classes:  # one of them has numbers to predict
            super().use_classes(classes)
        targets = text_positions(self.rows, self.target, classes)
        is_unknown = targets < 0
        if is_unknown.any():
            position = int(is_unknown.int().argmax())
            cell = self.rows.cells(self.target).iloc[position]
            raise UserError(
                f"{self.rows.locate(position, self.target)}: {cell!r} is a class that the model "
                f"was not trained with; it knows {list_names(classes)}"
            )
        self.targets = targets

    def sample_name(self, index: int) -> str:
        """The place of the row in its file, such as "line 12"."""
        return self._places[index]

    @cached_property
    def _places(self) -> list[str]:
        return self.rows.places()


def _check_no_other_tables(root: Path, path: Path, examples: Iterable[str]) -> None:
    """Raises a UserError if the user has tables where the file of an example would be created.

    Training on the example would not be what they want.

    Args:
        root: folder of the data.
        path: the file of the example.
        examples: files of all examples.
    """
    example_names = [Path(file).name for file in examples]
    others = []
    for folder in dict.fromkeys((root, path.parent)):
        for table in sorted(folder.glob("*.csv")):
            if table.name not in example_names:
                others.append(str(table.relative_to(root)))
    if others:
        raise UserError(
            f"{path}, the data of this example, does not exist, but {root} contains {others[0]}; "
            f"use data.file={others[0]}, or another data.root for the example",
            DATA_UNAVAILABLE,
        )


def _drop_missing(rows: Table, column: str) -> Table:
    """The rows that have a value in a column; the number of the others is logged."""
    is_missing = torch.tensor(rows.is_missing(column))
    if is_missing.any():
        log.info(
            "%s: %d of %d rows have no value in column %r and are left out",
            rows.file,
            int(is_missing.sum()),
            len(rows),
            column,
        )
    return rows.take((~is_missing).nonzero().squeeze(1))
