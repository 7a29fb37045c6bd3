"""Tables: what is read, what is written, and what is refused."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import gzip
import io
import os
import re
import sys
import weakref
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_loader import delimited_text
from data_loader.table_dataset import TableDataset
from data_loader.table_format import TableFormat
from data_loader.tables import read_table, write_rows
from utils.errors import UserError


class Rows(TableDataset):
    """A table as a data set, whose samples nobody reads."""

    target = "a"

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError


def cells_of(file: Path, **changes: Any) -> list[list[str]]:
    """All rows of a table, without its header."""
    rows: list[list[str]] = read_table(file, (), TableFormat(**changes)).frame.to_numpy().tolist()
    return rows


def refused(file: Path, *columns: str, **changes: Any) -> str:
    """The message of the error about a file, which it names."""
    with pytest.raises(UserError) as error:
        read_table(file, columns, TableFormat(**changes))
    assert error.value.exit_code == 2
    assert str(file) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_is_read_with_any_of_the_delimiters(tmp_path: Path, delimiter: str) -> None:
    quoted = f'"two{delimiter} ""parts""\nand lines"'
    lines = [[" a", "b "], [f" {quoted}", " é "], ["", "2"]]
    text = "\r\n".join(delimiter.join(line) for line in lines) + "\r\n\r\n"
    (tmp_path / "x.csv").write_text(f"\ufeff{text}", encoding="utf-8", newline="")
    table = read_table(tmp_path / "x.csv", ["b"])
    assert table.columns == ["a", "b"]
    assert cells_of(table.file) == [[f'two{delimiter} "parts"\nand lines', "é"], ["", "2"]]


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.csv", [("text", "n"), ('a, "b"\nc', 1), ("", 2.5)])
    assert cells_of(tmp_path / "x.csv") == [['a, "b"\nc', "1"], ["", "2.5"]]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=5)
CELLS = st.one_of(TEXTS, st.sampled_from(["007", "1e5", "a,b", 'say "x"', "1\n2", "NA", ";|\t"]))


@given(
    st.integers(2, 4).flatmap(
        lambda width: st.lists(
            st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=5
        )
    ),
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_cells_and_lines_are_those_that_were_written(
    tmp_path: Path, rows: list[list[str]], delimiter: str, quoting: Any, end: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerow(f"column {k}" for k in range(len(rows[0])))
    starts = []
    for row in rows:
        written = text.getvalue().replace("\r\n", "\n").replace("\r", "\n")
        starts.append(f"line {written.count(chr(10)) + 1}")
        writer.writerow(row)
    file = tmp_path / "x.csv"
    file.write_text(text.getvalue(), encoding="utf-8", newline="")
    try:
        table = read_table(file)
    except UserError as error:
        assert "rows are part of the cell" in str(error)
        return
    expected = pandas.read_csv(file, sep=delimiter, dtype="str", keep_default_na=False)
    is_blank = expected.map(str.isspace) | (expected == "")
    expected = expected[~is_blank.all(axis=1)]
    assert table.frame.to_numpy().tolist() == expected.map(str.strip).to_numpy().tolist()
    assert table.places() == [starts[position] for position in expected.index]


def test_the_size_limit_of_csv_cells_is_restored(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long_cell = "x".ljust(limit + 1, "x")
    (tmp_path / "long.csv").write_text(f'a\n"{long_cell}"\n')
    assert cells_of(tmp_path / "long.csv") == [[long_cell]]
    assert csv.field_size_limit() == limit
    (tmp_path / "broken.csv").write_text('a\n"x')
    refused(tmp_path / "broken.csv")
    assert csv.field_size_limit() == limit


def test_a_long_line_without_quotation_marks_is_read(tmp_path: Path) -> None:
    document = "x" * 3_000_000
    (tmp_path / "x.csv").write_text(f"a,b\n1,{document}\n")
    assert cells_of(tmp_path / "x.csv") == [["1", document]]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"a,c\n1,2\n", ["no column 'b'", "a, c"]),
        (b"1,2.5\n1,2\n", ["no column 'a'", "first row", "names of the columns"]),
        (b"a b\n1 2\n", ["no column 'a'", "data.delimiter"]),
        (b"Sales,\na,b\n1,2\n", ["no column 'a'", "first row"]),
        (b"", ["empty"]),
        (b"\n\n", ["empty"]),
        (b"a,b\n1,2\n\n1,2,3\n", ["line 4", "3 cells", "header has 2"]),
        (b"a,b\n1\n", ["line 2", "1 cells", "header has 2"]),
        (b"a,b\n1,2,\n3,4,\n5,6\n", ["line 2", "3 cells", "header has 2"]),
        (b"a,b\n1,2,\n3,4,5\n", ["line 2", "3 cells", "header has 2"]),
        (b"a,b\n1,2\n3,4,\n", ["line 3", "3 cells", "header has 2"]),
        (b"sep=;\r\na;b\r\n1,5;2\r\n3;4;5\r\n", ["line 4", "3 cells", "header has 2"]),
        (b" ,\n1,2\n", ["names of the columns"]),
        (b'a,b\n"x\ny",2\n1,2,3\n', ["line 4", "3 cells", "header has 2"]),
        (b"a,b\n1,2\n\xff,2\n", ["line 3", "0xff", "utf-8", "data.encoding"]),
        (b"a\0,\0b\0", ["line 1", "NUL", "data.encoding"]),
        (b'a,b\n1,2\n"1,2\n3,4\n', ["line 3", "quotation mark", "data.quotes=false"]),
        (b'a,b\n"x\n1",1\n1,"x"y\n', ["line 4", "quotation mark", "data.quotes=false"]),
        (b"a,b,a\n1,2,3\n", ["2 columns", "'a'"]),
        (b"PK\3\4 no workbook", ["Excel"]),
        (b"PAR1\x15 no parquet", ["cannot be read"]),
        (b"ARROW1\0\0 no feather", ["cannot be read"]),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["old format", ".xlsx"]),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], ["cannot be read"]),
    ],
)
def test_an_invalid_table_is_refused_with_the_line_and_the_reason(
    tmp_path: Path, content: bytes, parts: list[str]
) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    message = refused(tmp_path / "x.csv", "a", "b")
    for part in parts:
        assert part in message


def test_the_error_for_a_file_that_is_no_table_is_short(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("<html>" + "text " * 10_000)
    message = refused(tmp_path / "x.csv", "a")
    assert "names of the columns" in message
    assert len(message) < 1000


@pytest.mark.parametrize("last_row", [4, 12])
def test_quotation_marks_in_texts_do_not_swallow_rows(tmp_path: Path, last_row: int) -> None:
    rows = [[f"text {k}", ["no", "yes"][k % 2]] for k in range(30)]
    rows[3][0] = '"it'
    rows[last_row][0] = 'is"'
    lines = ["\t".join(row) for row in [["text", "class"], *rows]]
    (tmp_path / "x.tsv").write_text("\n".join(lines))
    message = refused(tmp_path / "x.tsv")
    for part in ("line 5", f"line {last_row + 2}", f"{last_row - 3} rows", "data.quotes=false"):
        assert part in message
    assert cells_of(tmp_path / "x.tsv", quotes=False) == rows


def test_quoted_cells_may_contain_lines_with_delimiters(tmp_path: Path) -> None:
    rows = [["Hello, world\nBye", "a"], ["one\ntwo, three\n", "b"], [",\n,\n", "c"]]
    write_rows(tmp_path / "x.csv", [("text", "class"), *rows])
    expected = [[text.strip(), label] for text, label in rows]
    assert cells_of(tmp_path / "x.csv") == expected


@pytest.mark.parametrize(
    ("text", "columns", "cells"),
    [
        ('"a;b;c",d\n1,2\n', ["a;b;c", "d"], [["1", "2"]]),
        ('"a\nb,c";d\n"1,5";2\n', ["a\nb,c", "d"], [["1,5", "2"]]),
        ("price, EUR;kg\n1,5;2\n", ["price, EUR", "kg"], [["1,5", "2"]]),
        ("text\none, two; three\n\nfour\n", ["text"], [["one, two; three"], ["four"]]),
        ("\n\na,b\r1,2\r\r3,4\r", ["a", "b"], [["1", "2"], ["3", "4"]]),
        ("a,,b\n1,x,2\n,,\n  \n3,,4\n", ["a", "b"], [["1", "2"], ["3", "4"]]),
        ("a,b\n", ["a", "b"], []),
        ("a,b\n1,2,\n,, \n\n3,4,\n", ["a", "b"], [["1", "2"], ["3", "4"]]),
        ('a,b\n"1",2,\n"3",4,\n', ["a", "b"], [["1", "2"], ["3", "4"]]),
        ("a,b,\n1,2,\n3,4,\n", ["a", "b"], [["1", "2"], ["3", "4"]]),
        ("a b c\n1  2 3\n", ["a", "b", "c"], [["1", "2", "3"]]),
    ],
)
def test_the_delimiter_and_blank_rows_are_detected(
    tmp_path: Path, text: str, columns: list[str], cells: list[list[str]]
) -> None:
    (tmp_path / "x.csv").write_text(text, newline="")
    delimiter = " " if text.startswith("a b") else ""  # a space is not detected
    table = read_table(tmp_path / "x.csv", (), TableFormat(delimiter=delimiter))
    assert table.columns == columns
    assert table.frame.to_numpy().tolist() == cells


def test_the_first_line_can_name_the_delimiter_as_excel_writes_it(tmp_path: Path) -> None:
    for start in ("sep=;\r\n", "\ufeffSEP=;\n"):
        text = f"{start}a,b;c\n1,5;2\n"
        (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
        table = read_table(tmp_path / "x.csv", ["a,b", "c"])
        assert table.frame.to_numpy().tolist() == [["1,5", "2"]]
        assert table.places() == ["line 3"]


def test_quoted_cells_are_divided_as_the_csv_module_does(tmp_path: Path) -> None:
    for text in (
        'a,b\n"x","y ""z"""\n"","1,2"',
        'a,b\r\n"x\r\ny",1\r\n"""",2\r\n',
        '"a\nb","c"\n"1",2\n3,""\n',
        'a,b\nx"y,1\n2,z""\n',
        'a,b\n "x, y",1\n2,"3"\n',
        'a,b\n\'x,1\n2,"3"\n',
    ):
        (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
        _, *rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        assert cells_of(tmp_path / "x.csv", delimiter=",") == rows


def test_quotation_marks_are_checked_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'a,b\n"one ""two""","x\ny"\n"","3"\n'
    _, *rows = csv.reader(io.StringIO(text, newline=""))
    (tmp_path / "x.csv").write_text(text)
    (tmp_path / "y.csv").write_text(text + '"x" y,1\n')
    for size in range(1, 12):
        monkeypatch.setattr(delimited_text, "CHUNK_BYTES", size)
        assert cells_of(tmp_path / "x.csv") == rows
        assert "line 5" in refused(tmp_path / "y.csv")


def test_the_splits_of_a_file_share_its_rows_until_it_changes(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.csv", [["a"], *([k] for k in range(20))])
    splits = [Rows() for _ in range(3)]
    first = splits[0].read_rows(tmp_path, "x.csv", ["a"], {})
    assert splits[1].read_rows(tmp_path, "x.csv", ["a"], {}) is first
    write_rows(tmp_path / "x.csv", [["a"], *([9 - k % 10] for k in range(20))])
    changed = splits[2].read_rows(tmp_path, "x.csv", ["a"], {})
    assert changed.cells("a").iloc[0] == "9"
    released = [weakref.ref(first), weakref.ref(changed)]
    del first, changed, splits
    assert [table() for table in released] == [None, None]


def test_encodings_are_named_or_have_a_byte_order_mark(tmp_path: Path) -> None:
    text = "a\tb\nä\t€\n"
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "x.tsv").write_text(text, encoding=encoding)
        assert cells_of(tmp_path / "x.tsv") == [["ä", "€"]]
    (tmp_path / "x.tsv").write_text(text, encoding="cp1252")
    assert cells_of(tmp_path / "x.tsv", encoding="cp1252") == [["ä", "€"]]
    with pytest.raises(UserError, match=r"data\.encoding=latin0"):
        read_table(tmp_path / "x.tsv", (), TableFormat(encoding="latin0"))


def test_the_delimiter_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a b,c\n1 2,3\n")
    assert cells_of(tmp_path / "x.txt", delimiter=" ") == [["1", "2,3"]]
    (tmp_path / "x.txt").write_text("a,b\tc\n1,2\t3\n")
    assert cells_of(tmp_path / "x.txt", delimiter="\t") == [["1,2", "3"]]


def test_other_formats_give_the_texts_of_a_csv_file(tmp_path: Path) -> None:
    moments = [datetime(2024, 2, 29), datetime(2024, 3, 1, 12, 30), None]
    frame = pandas.DataFrame(
        {
            "whole": pandas.array([1, None, 3], dtype="Int64"),
            "real": [0.1, 2.5, None],
            "truth": [True, False, True],
            "code": ["007", "NA", None],
            "kind": pandas.Categorical(["u", "v", "u"]),
            "when": moments,
        }
    )
    frame.to_csv(tmp_path / "x.csv.gz", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_feather(tmp_path / "x.feather")
    frame.to_excel(tmp_path / "x.xlsx", index=False, startrow=2)
    expected = read_table(tmp_path / "x.csv.gz").frame
    assert expected["code"].tolist() == ["007", "NA", ""]
    for name in ("x.parquet", "x.feather", "x.xlsx"):
        table = read_table(tmp_path / name, ["whole", "code"])
        assert table.columns == list(frame.columns)
        for column in ("whole", "real", "truth", "code", "kind"):
            assert table.cells(column).tolist() == expected[column].tolist(), (name, column)
        times = pandas.to_datetime(table.cells("when").replace("", None), format="ISO8601")
        assert times.isna().tolist() == [False, False, True]
        assert times[:2].dt.to_pydatetime().tolist() == moments[:2]
    assert read_table(tmp_path / "x.xlsx").places() == ["row 4", "row 5", "row 6"]
    assert read_table(tmp_path / "x.parquet").places() == ["row 1", "row 2", "row 3"]


def test_a_missing_package_is_reported_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas.DataFrame({"a": [1]}).to_excel(tmp_path / "x.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    message = refused(tmp_path / "x.xlsx")
    for part in ("openpyxl", '".[excel]"'):
        assert part in message


def test_numbers_of_other_formats_have_the_decimal_separator_of_the_settings(
    tmp_path: Path,
) -> None:
    frame = pandas.DataFrame({"typed": [1.5], "text": ["2,5"]})
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_excel(tmp_path / "x.xlsx", index=False)
    for name in ("x.parquet", "x.xlsx"):
        assert cells_of(tmp_path / name, decimal=",") == [["1,5", "2,5"]]


def test_the_index_of_a_parquet_file_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": [1, 2]}, index=pandas.Index([7, 8], name="id"))
    frame.to_parquet(tmp_path / "x.parquet")
    assert cells_of(tmp_path / "x.parquet") == [["7", "1"], ["8", "2"]]


@pytest.mark.parametrize(
    ("value", "kind"), [([1], "list"), (b"\xff", "binary"), (timedelta(1), "duration")]
)
def test_a_column_that_is_no_text_is_refused(tmp_path: Path, value: object, kind: str) -> None:
    pandas.DataFrame({"a": [value, value]}).to_parquet(tmp_path / "x.parquet")
    message = refused(tmp_path / "x.parquet")
    for part in ("'a'", kind):
        assert part in message


def make_rows(file: Path) -> None:
    write_rows(file, [["a"], *([k] for k in range(20))])


def read_rows(folder: Path, make: Any = None, **changes: Any) -> list[str]:
    """The column `a` of the data set's file."""
    examples = {} if make is None else {"x.csv": make}
    rows = Rows(**changes).read_rows(folder, "x.csv", ["a"], examples)
    return list(rows.cells("a"))


def test_a_missing_file_of_the_user_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_rows(tmp_path)
    for part in ("x.csv", "data.file", "data.root"):
        assert part in str(error.value)
    assert error.value.exit_code == 69
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    with pytest.raises(UserError, match=r"data\.file: .*cats is a folder"):
        Rows().read_rows(tmp_path, "cats", ["a"], {})


def test_an_example_is_not_created_next_to_tables_of_the_user(tmp_path: Path) -> None:
    examples = dict.fromkeys(("one/a.csv", "one/b.csv"), make_rows)
    with pytest.raises(UserError, match=r"a\.csv does not exist"):
        Rows(create_example=False).read_rows(tmp_path, "one/a.csv", ["a"], examples)
    (tmp_path / "mine.csv").touch()
    with pytest.raises(UserError, match=r"data\.file=mine\.csv") as error:
        Rows().read_rows(tmp_path, "one/a.csv", ["a"], examples)
    assert error.value.exit_code == 69
    assert [*tmp_path.iterdir()] == [tmp_path / "mine.csv"]
    (tmp_path / "mine.csv").unlink()
    Rows().read_rows(tmp_path, "one/b.csv", ["a"], examples)
    Rows().read_rows(tmp_path, "one/a.csv", ["a"], examples)  # next to another example
    (tmp_path / "mine.csv").touch()
    assert len(Rows().read_rows(tmp_path, "one/a.csv", ["a"], examples)) == 20


def test_a_folder_is_not_read_as_a_table(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)


def test_an_existing_example_file_is_not_overwritten(tmp_path: Path) -> None:
    assert len(read_rows(tmp_path / "new", make_rows)) == 20
    (tmp_path / "new/x.csv").write_text("a\n" + "7\n" * 21)
    assert read_rows(tmp_path / "new", make_rows) == ["7"] * 21


def test_rows_without_a_target_are_left_out_on_request_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "x.csv", [["a", "b"], *([["", "NA", "7"][k % 3], k] for k in range(60))])
    assert len(read_rows(tmp_path)) == 60
    caplog.set_level("INFO")
    assert read_rows(tmp_path, drop_missing_target=True) == ["7"] * 20
    assert "40 of 60 rows" in caplog.text
    with pytest.raises(UserError, match="has 0 rows"):
        read_rows(tmp_path, drop_missing_target=True, missing=("7", "NA"))


def test_the_splits_of_a_file_share_its_rows_without_those_that_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "x.csv", [["a", "b"], *([["", "7"][k % 2], k] for k in range(60))])
    caplog.set_level("INFO")
    splits = [Rows(drop_missing_target=True) for _ in range(2)]
    first = splits[0].read_rows(tmp_path, "x.csv", ["a"], {})
    assert splits[1].read_rows(tmp_path, "x.csv", ["a"], {}) is first
    assert len(Rows().read_rows(tmp_path, "x.csv", ["a"], {})) == 60
    assert caplog.text.count("30 of 60 rows") == 1


def test_equal_separators_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.decimal and data\.thousands"):
        Rows(decimal="comma", thousands=",")


def test_separators_have_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n" + "1;2\n" * 20)
    assert read_rows(tmp_path, delimiter="semicolon") == ["1"] * 20
    table_format = Rows(delimiter="tab", decimal="comma", thousands="apostrophe").table_format
    assert (table_format.delimiter, table_format.decimal) == ("\t", ",")
    assert table_format.thousands == "'"


def test_invisible_characters_around_cells_and_in_the_header_are_removed(tmp_path: Path) -> None:
    text = "\u200bkind\u00a0of\u00adx,b\nPark\u200b,\u200e1\u200f\n"
    text += "\u00a0Park,\ufeff2\nPa\u200brk,\u200c\n"
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    table = read_table(tmp_path / "x.csv", ["kind ofx"])
    assert table.cells("kind ofx").tolist() == ["Park", "Park", "Pa\u200brk"]
    assert table.cells("b").tolist() == ["1", "2", ""]
    assert table.is_missing("b").tolist() == [False, False, True]


def test_a_missing_column_is_reported_with_visible_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("le\u200dvel,b\n1,2\n", encoding="utf-8")
    assert r"'le\u200dvel', b" in refused(tmp_path / "x.csv", "level")


@pytest.mark.parametrize("name", ["PK", "PAR1", "FEA1", "ARROW1"])
def test_the_name_of_a_column_does_not_make_a_text_a_binary_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.csv").write_text(f"{name},b\n1,2\n")
    assert read_table(tmp_path / "x.csv").columns == [name, "b"]


def test_a_nul_character_is_shown_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,2\n3,4\x005\n")
    message = refused(tmp_path / "x.csv")
    for part in ("line 3", r"\x00", "data.encoding"):
        assert part in message
    assert "\0" not in message


def test_formulas_without_a_computed_value_are_refused_with_the_cell(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = "data"
    for row in (["a", "b"], [1, "=A2*2"], [2, "=A3*2"]):
        sheet.append(row)
    workbook.save(tmp_path / "renamed.csv")
    message = refused(tmp_path / "renamed.csv")
    for part in ("'data'", "B2", "formula"):
        assert part in message


def test_a_formula_may_have_an_empty_result(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    for row in (["a", "b"], ["=1+1", "=B9"], ["u", "v"]):
        workbook.active.append(row)
    workbook.save(tmp_path / "x.xlsx")
    with zipfile.ZipFile(tmp_path / "x.xlsx") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    files[sheet] = re.sub(rb"<f>1\+1</f><v ?/?>(</v>)?", b"<f>1+1</f><v>2</v>", files[sheet])
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    assert cells_of(tmp_path / "x.xlsx") == [["2", ""], ["u", "v"]]


def test_the_first_sheet_of_a_workbook_is_named_if_a_column_is_missing(tmp_path: Path) -> None:
    with pandas.ExcelWriter(tmp_path / "x.xlsx") as writer:
        pandas.DataFrame({"note": ["x"]}).to_excel(writer, sheet_name="read me", index=False)
        pandas.DataFrame({"a": [1]}).to_excel(writer, sheet_name="data", index=False)
    message = refused(tmp_path / "x.xlsx", "a")
    for part in ("'a'", "note", "first sheet"):
        assert part in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_read_as_a_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in refused(tmp_path / "pipe")
    with pytest.raises(UserError, match="regular file"):
        Rows().read_rows(tmp_path, "pipe", ["a"], {})
