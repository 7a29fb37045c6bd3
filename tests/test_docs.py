"""The template's documents: links, headings, pictures and file names exist, and figures agree."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import CHOICES, FILES, PAYLOAD, QUESTIONS, TEMPLATE
from markdown_it import MarkdownIt
from markdown_it.token import Token

MARKDOWN = MarkdownIt().enable("table")
FOLDERS = (".", ".github", "benchmarks", "docs", "docs/examples")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (TEMPLATE / folder).glob("*.md"))
README = TEMPLATE / "README.md"
COMPARISON = TEMPLATE / "docs/comparison.md"
MAX_README_LINES = 150
COMMIT = re.compile(r"/(blob|tree|commit)/[0-9a-f]{40}\b|/2\.6\.6/")
REPOSITORY = re.compile(r"https://github\.com/[^/]+/[^/]+")

# These also name files of other projects, of earlier versions, or of machines.
NAME_OTHER_FILES = {"CHANGELOG.md", "RESULTS.md", "comparison.md", "scaling.md", "slurm.md"}
FILE_NAME = re.compile(r"[\w.{}-]+(/[\w.{}-]+)*\.(py|ya?ml|md|sh|toml|json|ipynb|png)")

for_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def parse(document: Path) -> list[Token]:
    """Returns the blocks of a document."""
    tokens: list[Token] = MARKDOWN.parse(document.read_text(encoding="utf-8"))
    return tokens


def inner_tokens(document: Path) -> list[Token]:
    """Returns the texts, links, pictures and code spans of a document."""
    return [child for token in parse(document) for child in token.children or ()]


def links(document: Path) -> set[str]:
    """Returns the targets of the links and pictures of a document."""
    found = {token.attrGet("href") or token.attrGet("src") for token in inner_tokens(document)}
    return {str(target) for target in found if target}


def headings(document: Path) -> list[tuple[int, str]]:
    """Returns the level and the text of each heading of a document."""
    tokens = parse(document)
    found = []
    for opening, content in pairwise(tokens):
        if opening.type == "heading_open":
            texts = [child.content for child in content.children or ()]
            found.append((int(opening.tag[1]), "".join(texts).strip()))
    return found


def anchors(document: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a document.

    Those of a Python file are its functions; the site links to their lines.
    """
    if document.suffix == ".py":
        return set(re.findall(r"^def (\w+)", document.read_text(encoding="utf-8"), re.MULTILINE))
    texts = [text.lower() for _, text in headings(document)]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


@for_each_document
def test_the_targets_of_links_exist(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = document.parent / unquote(path) if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@for_each_document
def test_pictures_exist_and_have_a_description(document: Path) -> None:
    for token in inner_tokens(document):
        if token.type == "image":
            source = document.parent / str(token.attrGet("src"))
            assert source.is_file(), source
            assert source.stat().st_size > 0, source
            assert token.content, f"{source}: no description"


def test_each_picture_is_shown() -> None:
    shown = {(page.parent / unquote(link)).resolve() for page in DOCUMENTS for link in links(page)}
    assert {*(TEMPLATE / "docs").glob("*.png")} <= shown


@for_each_document
def test_headings_are_in_order_and_have_a_text_below(document: Path) -> None:
    found = headings(document)
    assert [level for level, _ in found].count(1) == 1 or document.parent.name == ".github"
    assert len(set(found)) == len(found) or document.name in ("CHANGELOG.md", "RESULTS.md")
    for (before, _), (level, text) in pairwise(found):
        assert level <= before + 1, f"{text}: a level is missing above it"
    tokens = parse(document)
    for index, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        text = tokens[index + 1].content
        assert text.strip(), f"line {token.map}: a heading without a text"
        following = tokens[index + 3 : index + 4]
        assert following, f"{text}: nothing follows"
        is_heading = following[0].type == "heading_open"
        assert not is_heading or following[0].tag > token.tag, f"{text}: an empty section"


@for_each_document
def test_reference_links_are_defined(document: Path) -> None:
    """Markdown shows a reference without a definition as plain text."""
    texts = [token.content for token in inner_tokens(document) if token.type == "text"]
    assert not [text for text in texts if re.search(r"\]\[", text)]


@for_each_document
def test_reference_links_are_used(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    defined = re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE)
    assert not [name for name in defined if f"][{name}]" not in text]
    assert len(set(defined)) == len(defined)


@for_each_document
def test_named_files_exist(document: Path) -> None:
    """A path in backticks is a file of the template or of a project."""
    if document.name in NAME_OTHER_FILES or document.name.startswith("coming-from"):
        pytest.skip("names files of other projects as well")
    for token in inner_tokens(document):
        name = token.content.removeprefix("{{cookiecutter.project_slug}}/")
        if token.type == "code_inline" and "/" in name and FILE_NAME.fullmatch(name):
            folders = (TEMPLATE, PAYLOAD, document.parent)
            assert any((folder / name).exists() for folder in folders), name


def reachable_from(document: Path) -> set[Path]:
    """Returns the documents that links lead to from a document, itself included."""
    found: set[Path] = set()
    waiting = [document]
    while waiting:
        page = waiting.pop()
        if page in found:
            continue
        found.add(page)
        targets = {link.partition("#")[0] for link in links(page) if "://" not in link}
        for target in targets:
            if target.endswith(".md"):
                waiting.append((page.parent / unquote(target)).resolve())
    return found


def test_the_readme_is_short_and_leads_to_all_pages() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
    assert {*(TEMPLATE / "docs").glob("*.md")} <= reachable_from(README)


def test_the_short_start_is_at_the_top_of_the_readme() -> None:
    before = README.read_text(encoding="utf-8").partition("```bash\ncookiecutter ")[0]
    assert len(before.splitlines()) <= 15
    assert [text for _, text in headings(README)][:2] == ["torch-template", "Start"]


def test_the_page_of_questions_describes_each_question_and_choice() -> None:
    text = (TEMPLATE / "docs/questions.md").read_text(encoding="utf-8")
    presets, _, questions = text.partition("\n## All questions")
    assert not [preset for preset in CHOICES["preset"] if f"| `{preset}`" not in presets]
    table = questions.partition("\n## ")[0]
    for question in set(QUESTIONS) - {"preset"}:
        (row,) = [line for line in table.splitlines() if f"`{question}`" in line]
        choices = CHOICES.get(question, [])
        assert not [choice for choice in choices if f"`{choice}`" not in row], question


def test_the_readme_and_the_page_of_examples_list_each_example() -> None:
    for document in (README, TEMPLATE / "docs/examples.md"):
        text = document.read_text(encoding="utf-8")
        assert not [name for name in FILES if f"| `{name}`" not in text]


def table_rows(text: str) -> list[list[str]]:
    """Returns the cells of the rows of all tables, without headers."""
    lines = text.splitlines()
    rows = []
    for before, line in pairwise(lines):
        is_header = not before.startswith("|")
        if line.startswith("|") and not line.startswith("|---") and not is_header:
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def without_links(text: str) -> str:
    """Returns Markdown with the texts of its links alone."""
    return re.sub(r"\[([^\]]+)\](\[[\w-]+\]|\([^)]+\))", r"\1", text)


def test_the_readmes_comparison_is_part_of_the_full_comparison() -> None:
    text = README.read_text(encoding="utf-8")
    section = text.partition("## Compared with other templates")[2].partition("\n## ")[0]
    rows = [without_links(line) for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 12  # a header of two lines, and ten projects
    full = without_links(COMPARISON.read_text(encoding="utf-8"))
    assert set(rows) <= set(full.splitlines())


def test_each_cell_of_the_comparison_has_evidence() -> None:
    """A link to a commit or to a run; only a project's name and the advice need none."""
    text = COMPARISON.read_text(encoding="utf-8")
    for section in text.partition("\n## What was run")[0].split("\n## ")[1:]:
        heading = section.splitlines()[0]
        for row in table_rows(section):
            cells = row[1:]
            if heading == "At a glance":
                cells = row[1:-1]
            for cell in cells:
                assert re.search(r"\]\[[\w-]+\]", cell) or cell == "not observed", (heading, row)
    for link in links(COMPARISON):
        if "://" in link:
            assert COMMIT.search(link) or REPOSITORY.fullmatch(link), link


def test_the_page_on_speed_gives_the_measured_times_of_the_loops() -> None:
    results = (TEMPLATE / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    tiny = results.partition("tiny (20-32-10)")[2].partition("\n\n")[0]
    times = dict(re.findall(r"^(\S.*?)  +([\d.]+) +[-+]", tiny, re.MULTILINE))
    mlp = results.partition("MLP (784-512-512-10)")[2].partition("\n\n")[0]
    ratios = dict(re.findall(r"^(\S.*?)  +[\d.]+ +[-+][\d.]+ +([\d.]+) ", mlp, re.MULTILINE))
    shown = {
        "hand-written": ["bare loop"],
        "this template, with its defaults": ["torch-template, defaults"],
        "Ignite: custom step · supervised trainer": ["Ignite Engine", "Ignite supervised trainer"],
        "Accelerate": ["Accelerate"],
        "Lightning: all off · defaults": ["Lightning, all off", "Lightning, defaults"],
    }
    page = (TEMPLATE / "docs/speed.md").read_text(encoding="utf-8")
    for label, loops in shown.items():
        values = " · ".join(f"{float(times[loop]):.0f}" for loop in loops)
        assert f"| {label} | {values} |" in page
    assert f"{float(ratios['torch-template, defaults']):.2f} times the throughput" in page


def test_the_documents_give_the_measured_results_of_the_recipes() -> None:
    results = (TEMPLATE / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    row = r"^(\S.*?)  +[\d.]+ +([\d.]+) +([\d.]+) +[\d.]+ - +[\d.]+ +[\d.]+ +(0\.\d+)"
    first_table = results.partition("## recipes.py")[2].split("```")[1]
    table = re.findall(row, first_table, re.MULTILINE)
    found = {name: [float(value) for value in values] for name, *values in table}
    seconds, epochs, accuracy = found["default"]
    fast = found["300 steps"]
    long = found["long"]
    expected = {
        README: [f"{accuracy:.1%} of Fashion", f"takes {seconds:.0f} seconds"],
        TEMPLATE / "docs/speed.md": [
            f"{accuracy:.1%} of Fashion",
            f"| {seconds:.0f} s; PyTorch's tutorial completes {epochs:.1f} epochs",
            f"| {fast[2]:.1%} | {fast[0]:.0f} s; {fast[1]:.1f} epochs |",
            f"| {long[2]:.1%} | {long[0]:.0f} s; {long[1]:.1f} epochs |",
        ],
    }
    for document, statements in expected.items():
        text = " ".join(document.read_text(encoding="utf-8").split())
        assert not [words for words in statements if words.replace("%", " %") not in text]
    text = " ".join((PAYLOAD / "docs/settings.md").read_text(encoding="utf-8").split())
    assert f"{100 * long[2]:.1f} % test accuracy instead of {100 * accuracy:.1f} %" in text
