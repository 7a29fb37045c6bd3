"""The pages of a generated project, README.md and docs/*.md: their code blocks and their faults."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

MARKDOWN = MarkdownIt().enable("table")
MAX_LINES_OF_README = 250
MAX_LINES_OF_PAGE = 310
LAST_HEADING = "What can go wrong"
FILE_NAME = re.compile(r"([\w.-]+/)*[\w-]+\.(py|sh|ipynb|yaml|toml|md)")


def pages_of(project: Path) -> list[Path]:
    """Returns README.md and the files in docs/."""
    return [project / "README.md", *sorted((project / "docs").glob("*.md"))]


def bash_blocks(page: Path, heading: str = "") -> list[str]:
    """Returns the contents of the bash code blocks of a page, or of one section of it."""
    text = page.read_text(encoding="utf-8")
    if heading:
        sections = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        (text,) = sections
    return re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shown_files(project: Path) -> list[tuple[str, str]]:
    """Returns path and content of the files that the pages show; their first line is the path."""
    files: list[tuple[str, str]] = []
    for page in pages_of(project):
        text = page.read_text(encoding="utf-8")
        files += re.findall(
            r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
        )
    return files


def write_shown_files(project: Path) -> None:
    """Writes the files that the pages show; none of them may exist."""
    for path, content in shown_files(project):
        assert not (project / path).exists(), path
        (project / path).write_text(content, encoding="utf-8")


@cache
def parse(text: str) -> list[Token]:
    """Returns the tokens of a Markdown text; parsing takes most of the time of these checks."""
    return MARKDOWN.parse(text)


def tokens_of(page: Path) -> list[Token]:
    """Returns the tokens of a page."""
    return parse(page.read_text(encoding="utf-8"))


def inner_tokens(page: Path) -> list[Token]:
    """Returns the links, pictures, texts and inline code of a page."""
    return [child for token in tokens_of(page) for child in token.children or ()]


def links(page: Path) -> set[str]:
    """Returns the targets of the links and pictures of a page."""
    found = {token.attrGet("href") or token.attrGet("src") for token in inner_tokens(page)}
    return {str(target) for target in found if target}


def headings(page: Path) -> list[str]:
    """Returns the texts of the headings of a page."""
    tokens = tokens_of(page)
    return [text.content for sign, text in pairwise(tokens) if sign.type == "heading_open"]


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a page."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings(page)}


def broken_links(page: Path) -> list[str]:
    """Returns the links whose file or heading does not exist; web addresses are not checked."""
    broken = []
    for link in sorted(links(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / unquote(path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def faults_of(project: Path) -> list[str]:
    """Returns what is wrong with the pages of a project, one line for each fault."""
    faults = []
    for page in pages_of(project):
        name = page.relative_to(project).as_posix()
        faults += [f"{name}: broken link {link}" for link in broken_links(page)]
        faults += [f"{name}: {fault}" for fault in faults_of_headings(page)]
        faults += [f"{name}: no file {file}" for file in missing_files(page, project)]
        limit = MAX_LINES_OF_README if name == "README.md" else MAX_LINES_OF_PAGE
        text = page.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > limit:
            faults.append(f"{name}: {lines} lines, at most {limit} are allowed")
        if "\n\n\n" in re.sub(r"```.*?```", "code", text, flags=re.DOTALL):
            faults.append(f"{name}: two blank lines")
        if name != "README.md":
            faults += [f"{name}: {fault}" for fault in faults_of_end(page)]
            if name not in links(project / "README.md"):
                faults.append(f"{name}: README.md has no link to it")
    return faults


def faults_of_headings(page: Path) -> Iterator[str]:
    """Finds headings without a name or without text below them, and headings that occur twice."""
    tokens = [token for token in tokens_of(page) if token.block]
    ends = [number for number, token in enumerate(tokens) if token.type == "heading_close"]
    for number in ends:
        if not tokens[number - 1].content:
            yield "a heading without a name"
        if number + 1 == len(tokens) or tokens[number + 1].type == "heading_open":
            yield f"no text below the heading {tokens[number - 1].content}"
    for heading, count in Counter(headings(page)).items():
        if count > 1:
            yield f"{count} headings {heading}"


def missing_files(page: Path, project: Path) -> list[str]:
    """Returns the files of the project that a page names in inline code, but that do not exist.

    These are names of Python files and scripts, and any path whose first folder is a part of the
    project. The files that the pages show as examples count as existing.
    """
    named = {token.content for token in inner_tokens(page) if token.type == "code_inline"}
    shown = {path for path, _ in shown_files(project)}
    missing = []
    for name in sorted(named - shown):
        folder, slash, _ = name.partition("/")
        is_part = (project / folder).is_dir() if slash else name.endswith((".py", ".sh"))
        if FILE_NAME.fullmatch(name) and is_part and not (project / name).exists():
            missing.append(name)
    return missing


def faults_of_end(page: Path) -> Iterator[str]:
    """Checks that the last section of a page is a table of what can go wrong."""
    *_, last = headings(page)
    if last != LAST_HEADING:
        yield f"its last section is {last}, not {LAST_HEADING}"
        return
    text = page.read_text(encoding="utf-8").partition(f"## {LAST_HEADING}\n")[2]
    if "| symptom | cause | what to do |\n" not in text:
        yield f"{LAST_HEADING} has no table"
