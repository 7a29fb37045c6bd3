"""The template's documents: link targets exist, and tables and figures agree."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import TEMPLATE
from markdown_it import MarkdownIt
from markdown_it.token import Token

MARKDOWN = MarkdownIt().enable("table")
FOLDERS = (".", ".github", "benchmarks", "docs", "docs/examples")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (TEMPLATE / folder).glob("*.md"))


def links(document: Path) -> set[str]:
    """Returns the targets of the links and pictures of a document."""
    tokens: list[Token] = MARKDOWN.parse(document.read_text(encoding="utf-8"))
    inner = [child for token in tokens for child in token.children or ()]
    found = {token.attrGet("href") or token.attrGet("src") for token in inner}
    return {str(target) for target in found if target}


def anchors(document: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a document.

    Those of a Python file are its functions; the site links to their lines.
    """
    text = document.read_text(encoding="utf-8")
    if document.suffix == ".py":
        return set(re.findall(r"^def (\w+)", text, re.MULTILINE))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_targets_of_links_exist(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = document.parent / unquote(path) if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_reference_links_are_defined() -> None:
    """Markdown shows a reference without a definition as plain text."""
    for document in DOCUMENTS:
        texts = [
            child.content
            for token in MARKDOWN.parse(document.read_text(encoding="utf-8"))
            for child in token.children or ()
            if child.type == "text"
        ]
        assert not [text for text in texts if re.search(r"\]\[", text)], document.name


def test_the_readmes_comparison_is_part_of_the_full_comparison() -> None:
    readme = TEMPLATE / "README.md"
    full = TEMPLATE / "docs/comparison.md"
    text = readme.read_text(encoding="utf-8")
    section = text.partition("## Beside other templates")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert set(rows) <= set(full.read_text(encoding="utf-8").splitlines())
    outside = {link for link in links(readme) if "/blob/" in link or "/tree/" in link}
    assert outside <= links(full)
    assert all(re.search(r"/(blob|tree|commit)/[0-9a-f]{40}|/2\.6\.6/", link) for link in outside)


def test_the_readmes_give_the_measured_results_of_the_recipes() -> None:
    results = (TEMPLATE / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    row = r"^(\S.*?)  +([\d.]+) +[\d.]+ - +[\d.]+ +([\d.]+) +(0\.\d+)"
    table = re.findall(row, results.partition("## recipes.py")[2], re.MULTILINE)
    found = {name: [float(value) for value in values] for name, *values in table}
    seconds, epochs, accuracy = found["default, five epochs"]
    fast = found["two epochs"]
    long = found["long"]
    expected = [
        f"{accuracy:.1%} of Fashion", f"in {seconds:.0f} s", f"of {epochs:.1f} epochs",
        f"{fast[2]:.1%} in {fast[0]:.0f} s", f"{long[2]:.1%} in {long[0]:.0f} s",
    ]  # fmt: skip
    text = " ".join((TEMPLATE / "README.md").read_text(encoding="utf-8").split())
    assert not [words for words in expected if words.replace("%", " %") not in text]
    payload = TEMPLATE / "{{cookiecutter.project_slug}}/README.md"
    text = " ".join(payload.read_text(encoding="utf-8").split())
    assert f"for {100 * long[2]:.1f} % of the test images instead of {100 * accuracy:.1f}" in text
