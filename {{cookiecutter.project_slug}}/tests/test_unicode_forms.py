"""Names of files in any Unicode form."""
# ruff: noqa: D103  the names of the tests say what they test

import unicodedata
from pathlib import Path

import pytest

from data_loader.unicode_forms import find_file, find_files, list_visibly, normalize_name
from utils.errors import UserError

COMPOSED = unicodedata.normalize("NFC", "été")
DECOMPOSED = unicodedata.normalize("NFD", "été")
PARTLY = unicodedata.normalize("NFC", "é") + "t" + unicodedata.normalize("NFD", "é")


@pytest.mark.parametrize("folder", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("name", [COMPOSED, DECOMPOSED, PARTLY])
def test_a_file_is_found_by_its_name_in_any_form(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"{name}.png").touch()
    wanted = [f"{form}/{form}.png" for form in (COMPOSED, DECOMPOSED, PARTLY)]
    for found in find_files(tmp_path, wanted):
        assert (tmp_path / found).is_file()
    for path in wanted:
        assert find_file(tmp_path / path).is_file()


def test_names_that_do_not_exist_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    names = ["a.png", "../b.png", f"{COMPOSED}/c.png", f"{DECOMPOSED}.png"]
    assert find_files(tmp_path, names) == names
    assert find_file(Path(names[2])) == Path(names[2])


def test_two_files_whose_names_are_the_same_text_are_refused(tmp_path: Path) -> None:
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / name).touch()
    if len([*tmp_path.iterdir()]) == 1:
        pytest.skip("the file system does not distinguish Unicode forms")
    with pytest.raises(UserError) as caught:
        find_files(tmp_path, [normalize_name(DECOMPOSED)])
    for part in (str(tmp_path), ascii(COMPOSED), ascii(DECOMPOSED), "rename"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "written",
    [
        "New York",
        "\ufeffNew York",
        "\u200bNew\u200b York\u200d",
        "New\u00a0York\u3000",
        "N\u00adew\u202fYork",
    ],
)
def test_names_that_look_the_same_are_the_same(written: str) -> None:
    assert normalize_name(written) == "New York"


def test_joiners_within_a_name_are_kept() -> None:
    for name in ("\U0001f469\u200d\U0001f4bb", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"):
        assert normalize_name(name) == name


def test_lists_of_names_show_invisible_characters() -> None:
    assert list_visibly(["caf\u00e9", "a\u200db", "c d"]) == "caf\u00e9, 'a\\u200db', c d"
