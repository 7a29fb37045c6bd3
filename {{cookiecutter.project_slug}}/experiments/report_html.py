"""Small pieces of HTML: escaped text, elements, tables."""

from collections.abc import Sequence
from html import escape

from logger.console import escape_invisible

SHORT_CELL_CHARACTERS = 24  # which are not wrapped


def text(value: object) -> str:
    """A text that is safe in HTML, also in an attribute."""
    return escape(escape_invisible(str(value)))


def element(tag: str, *contents: str, **attributes: object) -> str:
    """An element.

    Args:
        tag: its name.
        *contents: HTML.
        **attributes: their values are escaped; an underscore at the end of a name is removed.
    """
    parts = [tag]
    for name, value in attributes.items():
        if name == "class_" and not value:
            continue
        parts.append(f'{name.rstrip("_").replace("_", "-")}="{text(value)}"')
    return f"<{' '.join(parts)}>{''.join(contents)}</{tag}>"


def section(title: str, *contents: str) -> str:
    """A section with a heading; empty without any content."""
    if not any(contents):
        return ""
    return element("section", element("h2", text(title)), *contents)


def paragraph(value: object, class_: str = "") -> str:
    """A paragraph of text; empty without any."""
    if not value:
        return ""
    return element("p", text(value), class_=class_)


def html_table(
    rows: Sequence[Sequence[str]], highlighted: int | None = None, row_headers: bool = True
) -> str:
    """A table that scrolls sideways on a narrow screen.

    Args:
        rows: texts, the header first.
        highlighted: the index of the row to highlight, without the header.
        row_headers: whether the first cell of a row is its heading.
    """
    header = element("tr", *(element("th", text(cell), scope="col") for cell in rows[0]))
    body = []
    for index, row in enumerate(rows[1:]):
        cells = []
        for position, cell in enumerate(row):
            if position == 0 and row_headers:
                cells.append(element("th", text(cell), scope="row"))
            else:
                cells.append(_cell(cell))
        class_ = ""
        if index == highlighted:
            class_ = "best"
        body.append(element("tr", *cells, class_=class_))
    table = element("table", element("thead", header), element("tbody", *body))
    return element("div", table, class_="scroll")


def _cell(content: str) -> str:
    class_ = ""
    if len(content) <= SHORT_CELL_CHARACTERS:
        class_ = "short"
    return element("td", text(content), class_=class_)


def code_block(lines: Sequence[str]) -> str:
    """Commands to copy."""
    return element("pre", element("code", "\n".join(map(text, lines))))
