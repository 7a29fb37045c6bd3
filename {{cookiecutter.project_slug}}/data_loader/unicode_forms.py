"""Names that are the same text, although their Unicode forms differ.

An accented letter is one code point (NFC) or a letter and a combining mark (NFD). Both look the
same. Keyboards write the first form, some file systems and archives the second one.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.errors import UserError


def normalize_name(text: str) -> str:
    """Returns the NFC form of a name, such as that of a column, a class or a category."""
    return unicodedata.normalize("NFC", text)


def check_look_different(names: Iterable[str], what: str) -> None:
    """Checks that names differ in what a reader sees.

    Args:
        names: different names, such as those of the classes.
        what: what has them, for the message.

    Raises:
        UserError: if two names differ in invisible characters or in the kind of a space only.
    """
    seen: dict[str, str] = {}
    for name in names:
        visible = _visible_text(name)
        if visible in seen:
            raise UserError(
                f"{what}: {seen[visible]!a} and {name!a} look the same, but differ in invisible "
                "characters or in the kind of a space; write both alike"
            )
        seen[visible] = name


def _visible_text(text: str) -> str:
    """A text without format characters (category Cf), and with plain spaces only."""
    characters = []
    for character in text:
        if unicodedata.category(character) != "Cf":
            characters.append(character)
    return " ".join("".join(characters).split())


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
    return listings[folder].get(normalize_name(name), name)


def _list_names(folder: Path) -> dict[str, str]:
    """Returns the names in a folder by their NFC form."""
    names: dict[str, str] = {}
    try:
        listed = [file.name for file in folder.iterdir()]
    except OSError:  # it does not exist, or only files whose names are known can be read
        return names
    for name in listed:
        form = normalize_name(name)
        if form in names:
            raise UserError(
                f"{folder}: it contains {names[form]!a} and {name!a}, which are the same "
                "text in two Unicode forms; rename one of them"
            )
        names[form] = name
    return names
