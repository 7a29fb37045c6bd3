"""CSV files: what is read, what is written, and what is refused."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
from pathlib import Path

import pytest

from data_loader.tables import example_maker, read_data, read_rows, write_rows
from utils.errors import UserError


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_is_read_with_any_of_the_delimiters(tmp_path: Path, delimiter: str) -> None:
    quoted = f'"two{delimiter} ""parts""\nand lines"'
    lines = [[" a", "b "], [f" {quoted}", " é "], ["", "2"]]
    text = "\r\n".join(delimiter.join(line) for line in lines) + "\r\n\r\n"
    (tmp_path / "x.csv").write_text(f"\ufeff{text}", encoding="utf-8", newline="")
    first = {"a": f'two{delimiter} "parts"\nand lines', "b": "é"}
    assert read_rows(tmp_path / "x.csv", ["b"]) == [first, {"a": "", "b": "2"}]


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.csv", [("text", "n"), ('a, "b"\nc', 1), ("", 2.5)])
    rows = read_rows(tmp_path / "x.csv")
    assert [list(row.values()) for row in rows] == [['a, "b"\nc', "1"], ["", "2.5"]]


def test_the_size_limit_of_csv_cells_is_restored(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long_cell = "x".ljust(limit + 1, "x")
    (tmp_path / "long.csv").write_text(f"a\n{long_cell}\n")
    assert read_rows(tmp_path / "long.csv")[0]["a"] == long_cell
    assert csv.field_size_limit() == limit
    (tmp_path / "broken.csv").write_text('a\n"x')
    with pytest.raises(UserError, match=r"broken\.csv"):
        read_rows(tmp_path / "broken.csv")
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"a,c\n1,2\n", ["no column 'b'", "a, c"]),
        (b"", ["empty"]),
        (b"\n\n", ["empty"]),
        (b"a,b\n1,2\n1,2,3\n", ["row 2", "3 cells", "header has 2"]),
        (b"a,b\n\xff,2\n", ["UTF-8"]),
        (b'a,b\n"1,2\n', ["CSV in UTF-8"]),
        (b"a,b,a\n1,2,3\n", ["2 columns", "'a'"]),
        (b"a,b\n1,2\n", ["1 rows", "at least 20"]),
    ],
)
def test_an_invalid_table_is_refused_with_the_file_and_the_reason(
    tmp_path: Path, content: bytes, parts: list[str]
) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_data(tmp_path / "x.csv", ["a", "b"], None)
    for part in ("x.csv", *parts):
        assert part in str(error.value)
    assert error.value.exit_code == 2


def test_a_missing_file_of_the_user_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_data(tmp_path / "x.csv", [], None)
    for part in ("x.csv", "data.file", "data.root"):
        assert part in str(error.value)
    assert error.value.exit_code == 69
    assert list(tmp_path.iterdir()) == []


def test_an_example_is_not_created_next_to_tables_of_the_user(tmp_path: Path) -> None:
    examples = {"one/a.csv": lambda file: None, "one/b.csv": lambda file: None}
    assert example_maker(tmp_path, "one/a.csv", examples, create=False) is None
    assert example_maker(tmp_path, "mine.csv", examples, create=True) is None
    (tmp_path / "one").mkdir()
    (tmp_path / "one/b.csv").touch()  # another example
    assert example_maker(tmp_path, "one/a.csv", examples, create=True) is examples["one/a.csv"]
    (tmp_path / "mine.csv").touch()
    with pytest.raises(UserError, match=r"data\.file=mine\.csv"):
        example_maker(tmp_path, "one/a.csv", examples, create=True)
    (tmp_path / "one/a.csv").touch()
    assert example_maker(tmp_path, "one/a.csv", examples, create=True) is None


def test_a_folder_is_not_read_as_a_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path)


def test_an_existing_example_file_is_not_overwritten(tmp_path: Path) -> None:
    def make(file: Path) -> None:
        write_rows(file, [["a"], *([k] for k in range(20))])

    file = tmp_path / "new/x.csv"
    assert len(read_data(file, ["a"], make)) == 20
    file.write_text("a\n" + "7\n" * 21)
    assert [row["a"] for row in read_data(file, ["a"], make)] == ["7"] * 21
