"""Tokens: the same text in any Unicode form gives the same tokens, and no letter is lost."""
# ruff: noqa: D103  the names of the tests say what they test

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from base.base_dataset import BaseDataset
from builders import build_fitted_dataset
from config.loading import load_settings
from data_loader.tables import write_rows
from data_loader.tokens import normalize_text, tokenize

CONFIG = ROOT / "config/text_csv.yaml"
FORMS = ("NFC", "NFD")
# Letters, combining marks, joiners, emoji, symbols and spaces in a mixture that no text has.
MIXTURES = st.text(
    st.sampled_from("aIéİßﬁ\u0307\u0301\u0345ς猫ันम\u094d\u200d\u200c\u200b\ufe0f'’.👩🏽💻🇫🇷＃ \n")
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مَرْحَبًا شָלוֹם", ["مَرْحَبًا", "شָלוֹם"]),
        ("ภาษา กำ", ["ภ", "า", "ษ", "า", "กํ", "า"]),
        ("日本語。カナ", ["日", "本", "語", "。", "カ", "ナ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("र\u200d\u094dय so\u00adft \ufeffa\u00a0b\u200bc", ["र्य", "soft", "a", "b", "c"]),
        ("👩🏽\u200d💻👨\u200d👩\u200d👧 🇫🇷🇩🇪", ["👩🏽\u200d💻", "👨\u200d👩\u200d👧", "🇫🇷", "🇩🇪"]),
        ("❤\ufe0f❤ 1\ufe0f\u20e3", ["❤", "❤", "1\u20e3"]),
        ("ﬁne ＡＢ１ Straße STRASSE", ["fine", "ab1", "strasse", "strasse"]),
        ("İzmir izmir ΣΑΣ σας", ["izmir", "izmir", "σασ", "σασ"]),
        ("“don’t” e\u2011mail", ['"', "don", "'", "t", '"', "e", "-", "mail"]),
    ],
)
def test_tokens_of_many_scripts(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


def letters(text: str) -> list[str]:
    """The letters and digits of a text, without accents."""
    decomposed = unicodedata.normalize("NFKD", text)
    return [character for character in decomposed if unicodedata.category(character)[0] in "LN"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text() | MIXTURES)
@example("e\u200d\u0301")
@example("㈠\u200d🔥")
def test_tokens_do_not_depend_on_the_form_and_lose_nothing(text: str) -> None:
    tokens = tokenize(text)
    for form in FORMS:
        assert tokenize(unicodedata.normalize(form, text)) == tokens  # type: ignore[arg-type]
    assert tokenize(" ".join(tokens)) == tokens
    normal = normalize_text(text)
    assert normalize_text(normal) == normal
    assert "".join(tokens) == re.sub(r"\s", "", normal)
    assert letters("".join(tokens)) == letters(unicodedata.normalize("NFKC", text).casefold())


@pytest.fixture
def french(tmp_path: Path) -> Callable[..., BaseDataset]:
    """``french("NFD", "train")``: a split of a file in this form, with settings in the other."""

    def build(form: str, split: str) -> BaseDataset:
        rows = [("genré", "été"), *(12 * [("un café élégant", "positif"), ("un été raté", "né")])]
        cells = []
        for row in rows:
            cells.append([unicodedata.normalize(form, cell) for cell in row])  # type: ignore[arg-type]
        write_rows(tmp_path / f"{form}.csv", cells)
        columns = [f"data.text={unicodedata.normalize('NFC', 'genré')}"]
        columns.append(f"data.target={unicodedata.normalize('NFD', 'été')}")
        files = [f"data.root={tmp_path}", f"data.file={form}.csv"]
        return build_fitted_dataset(load_settings(CONFIG, [*files, *columns]), split)

    return build


def test_files_settings_and_inputs_may_have_different_forms(
    french: Callable[..., BaseDataset],
) -> None:
    composed = french("NFC", "train")
    decomposed = french("NFD", "train")
    assert decomposed.classes == composed.classes == ["né", "positif"]
    assert decomposed.state_dict()["vocabulary"] == composed.state_dict()["vocabulary"]
    ids = []
    for form in FORMS:
        sentence = unicodedata.normalize(form, "Un CAFÉ")  # type: ignore[arg-type]
        ((_, sample),) = composed.read_inputs(sentence)
        ids.append(sample["input"].tolist())
    assert ids[0] == ids[1]
    assert 1 not in ids[0]  # no token is unknown


def test_lines_of_a_file_are_named_with_their_numbers(french: Callable[..., BaseDataset]) -> None:
    dataset = french("NFC", "train")
    lines = "un\u2028café\x0cà\x85b\r\n \n\u200b\ndeux\rtrois"
    Path("lines.txt").write_bytes(lines.encode())
    names = [name for name, _ in dataset.read_inputs("lines.txt")]
    assert names == [
        "lines.txt line 1: un\u2028café\x0cà\x85b",
        "lines.txt line 4: deux",
        "lines.txt line 5: trois",
    ]
