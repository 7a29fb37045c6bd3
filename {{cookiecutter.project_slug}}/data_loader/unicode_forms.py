"""Names that are the same text, although their characters differ.

An accented letter is one code point (NFC) or a letter and a combining mark (NFD). Both look the
same. Keyboards write the first form, some file systems and archives the second one. Web pages and
spreadsheets contain spaces of other widths, and characters without a width.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.errors import UserError

# No-break, thin and other spaces.
SPACES = (
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f"
    "\u3000"
)
# Soft hyphens, spaces without a width, marks of the writing direction and byte order marks.
INVISIBLE = (
    "\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\ufeff"
)
JOINERS = "\u200c\u200d"  # they change how their neighbours look, so names can contain them
# What has no meaning at the ends of a cell.
BLANK = " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029" + SPACES + INVISIBLE + JOINERS


def normalize_cell(text: str) -> str:
    """Returns the text of a cell in the form NFC, without `BLANK` characters around it."""
    return unicodedata.normalize("NFC", text.strip(BLANK))


def normalize_name(text: str) -> str:
    """Returns a name, such as that of a column, a class or a category, as it looks.

    This is the form NFC with ordinary spaces and without `INVISIBLE` characters.
    """
    text = re.sub(f"[{SPACES}]", " ", text)
    text = re.sub(f"[{INVISIBLE}]", "", text)
    return normalize_cell(text)


def list_visibly(names: Iterable[str]) -> str:
    """The names as a list for a message; those with invisible characters are escaped."""
    return ", ".join(name if name.isprintable() else repr(name) for name in names)


def find_file(file: Path) -> Path:
    """Returns the path of a file as the file system spells it; see `find_files`."""
    if file.exists():
        return file
    (name,) = find_files(Path(), [str(file)])
    return Path(name)


def find_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns the names of files as the file system spells them.

    Args:
        folder: folder that the names are relative to.
        names: paths of files in any Unicode form. They may not exist; then they are not changed.

    Raises:
        UserError: if two existing names differ in their Unicode form only.
    """
    listings: dict[Path, dict[str, str]] = {}
    found = []
    for name in names:
        if name.isascii():
            found.append(name)
            continue
        path = Path()
        for part in Path(name).parts:
            if not part.isascii():
                part = _spelling(folder / path, part, listings)
            path = path / part
        found.append(str(path))
    return found


def _spelling(folder: Path, name: str, listings: dict[Path, dict[str, str]]) -> str:
    """Returns the name of a file in a folder, as the file system spells it.

    Args:
        folder: the folder, which may not exist.
        name: the name in any Unicode form.
        listings: the names in folders by their NFC form; that of the folder is added.
    """
    if folder not in listings:
        listings[folder] = _list_names(folder)
    return listings[folder].get(unicodedata.normalize("NFC", name), name)


def _list_names(folder: Path) -> dict[str, str]:
    """Returns the names in a folder by their NFC form."""
    names: dict[str, str] = {}
    try:
        listed = [file.name for file in folder.iterdir()]
    except OSError:  # it does not exist, or only files whose names are known can be read
        return names
    for name in listed:
        form = unicodedata.normalize("NFC", name)
        if form in names:
            raise UserError(
                f"{folder}: it contains {names[form]!a} and {name!a}, which are the same "
                "text in two Unicode forms; rename one of them"
            )
        names[form] = name
    return names
