"""CSV files: what is read from them, what is refused, and how they are divided."""
# ruff: noqa: D103  the names of the tests say what they test

from pathlib import Path

import pytest
import torch

from data_loader.tables import (
    class_indices,
    divide,
    parse_number,
    read_data,
    read_numbers,
    read_rows,
    write_rows,
)
from utils.errors import UserError


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_is_read_whatever_separates_its_cells(tmp_path: Path, separator: str) -> None:
    quoted = f'"two{separator} ""parts""\nand lines"'
    lines = [[" a", "b "], [f" {quoted}", " é "], ["", "2"]]
    text = "\r\n".join(separator.join(line) for line in lines) + "\r\n\r\n"
    (tmp_path / "x.csv").write_text(f"\ufeff{text}", encoding="utf-8", newline="")
    first = {"a": f'two{separator} "parts"\nand lines', "b": "é"}
    assert read_rows(tmp_path / "x.csv", ["b"]) == [first, {"a": "", "b": "2"}]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = [("text", "n"), ('a, "b"\nc', 1), ("", 2.5)]
    write_rows(tmp_path / "x.csv", rows)
    found = [list(row.values()) for row in read_rows(tmp_path / "x.csv")]
    assert found == [['a, "b"\nc', "1"], ["", "2.5"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,c\n1,2\n", r"x\.csv: no column 'b'; it has a, c$"),
        (b"", r"x\.csv is empty$"),
        (b"a,b\n1,2\n1,2,3\n", r"x\.csv: row 2 below the header has 3 cells, the header 2$"),
        (b"a,b\n\xff,2\n", r"x\.csv: cannot be read; save it as CSV in UTF-8 \("),
        (b'a,b\n"1,2\n', r"x\.csv: cannot be read; save it as CSV in UTF-8 \("),
        (b"a,b,a\n1,2,3\n", r"x\.csv: there are 2 columns 'a'$"),
        (b"a,b\n1,2\n", r"x\.csv: 1 rows are too few; at least 20 can be divided$"),
    ],
)
def test_what_is_no_such_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_data(tmp_path / "x.csv", ["a", "b"], None)
    assert error.value.exit_code == 2


def test_a_file_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.csv is not there; name your own by data\.fi") as error:
        read_data(tmp_path / "x.csv", [], None)
    assert error.value.exit_code == 69
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    def make(file: Path) -> None:
        write_rows(file, [["a"], *([k] for k in range(20))])

    file = tmp_path / "new/x.csv"
    assert len(read_data(file, ["a"], make)) == 20
    file.write_text("a\n" + "7\n" * 21)
    assert [row["a"] for row in read_data(file, ["a"], make)] == ["7"] * 21


def test_numbers_are_finite() -> None:
    assert [parse_number(text) for text in ("1e3", " -2 ", "x", "inf", "nan")] == [
        1000.0,
        -2.0,
        None,
        None,
        None,
    ]
    rows = [{"a": "1"}, {"a": " "}]
    assert torch.equal(read_numbers(rows, "a", gaps=True).isnan(), torch.tensor([[False], [True]]))
    with pytest.raises(UserError, match="column 'a', row 2 below the header: ' ' is no number"):
        read_numbers(rows, "a")
    with pytest.raises(UserError, match="column 'a', row 1 below the header: '1,5' is no number"):
        read_numbers([{"a": "1,5"}], "a", gaps=True)


def test_classes_are_in_alphabetical_order() -> None:
    names, targets = class_indices([{"a": name} for name in "bacbbaaaabbb"], "a")
    assert (names, targets.tolist()) == (["a", "b", "c"], [1, 0, 2, 1, 1, 0, 0, 0, 0, 1, 1, 1])
    with pytest.raises(UserError, match="column 'a', row 3 below the header: no class is given"):
        class_indices([{"a": "x"}, {"a": "y"}, {"a": ""}], "a")
    with pytest.raises(UserError, match="column 'a' has one class only: 'x'"):
        class_indices([{"a": "x"}] * 3, "a")
    with pytest.raises(UserError, match=r"column 'a' has 9 classes in 9 rows, such as '0'; are"):
        class_indices([{"a": str(k)} for k in range(9)], "a")


def test_splits_share_all_rows_with_the_shares_of_the_classes() -> None:
    targets = torch.cat([torch.zeros(600), torch.ones(60)]).long()[torch.randperm(660)]
    parts = {split: divide(targets, split, seed=1) for split in ("train", "validation", "test")}
    assert torch.equal(torch.cat([*parts.values()]).sort().values, torch.arange(660))
    counts = {split: targets[rows].bincount().tolist() for split, rows in parts.items()}
    assert counts["test"] == [100, 10]
    assert abs(counts["validation"][1] - 8) <= 1
    assert sum(counts["validation"]) == 91


def test_a_class_that_a_split_would_lack_is_named() -> None:
    targets = torch.tensor([0] * 60 + [1] * 12)
    for split in ("train", "validation", "test"):
        assert {*targets[divide(targets, split, 1, "ab")].tolist()} == {0, 1}
        with pytest.raises(UserError, match="class 'c' has 1 of 73 rows, too few for some in each"):
            divide(torch.cat([targets, torch.tensor([2])]), split, 1, "abc")


def test_a_plain_split_takes_what_chance_gives() -> None:
    targets = torch.tensor([0] * 600 + [1] * 60)
    plain = {
        s: divide(targets, s, 1, "ab", stratify=False) for s in ("train", "validation", "test")
    }
    assert torch.equal(torch.cat([*plain.values()]).sort().values, torch.arange(660))
    found = [targets[divide(targets, "validation", k, stratify=False)].sum() for k in range(20)]
    assert len({int(count) for count in found}) > 3


def test_equal_numbers_are_divided_alike_everywhere() -> None:
    """A sort that is not stable may order them otherwise on another machine."""
    targets = torch.zeros(600)
    ordered = torch.arange(600).float()
    for split in ("train", "validation", "test"):
        assert torch.equal(divide(targets, split, 1), divide(ordered, split, 1))


def test_the_seed_chooses_the_rows_for_validation_and_none_for_the_test() -> None:
    targets = torch.rand(600)  # numbers are divided as well as classes
    one, other = ({s: divide(targets, s, k) for s in ("validation", "test")} for k in (1, 2))
    assert torch.equal(one["test"], other["test"])
    assert not torch.equal(one["validation"], other["validation"])
    for rows in (one["test"], one["validation"]):
        assert targets[rows].mean().item() == pytest.approx(targets.mean().item(), abs=0.02)
