"""Paths and addresses that a user has written: in settings, arguments, the environment."""

import os
import re
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path
from typing import Any

WEB_ADDRESS = re.compile(r"https?://[^/\s]+(/[!-~]*)?")
IN_HOME = re.compile(r"~[^/\\]*[/\\]")
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def check_path(text: Any) -> Any:
    """The path with the home folder in the place of ``~`` or ``~user``.

    Values that are no text are returned unchanged.

    Raises:
        ValueError: if the text is empty, which would be the current folder; if there is no such
            user; or if it begins with an environment variable, which only a shell replaces, and
            does not exist.
    """
    if not isinstance(text, str):
        return text
    if not text.strip():
        raise ValueError("the path is empty; write . for the current folder")
    variable = VARIABLE.match(text)
    if variable is not None and not Path(text).exists():
        raise ValueError(
            f"{variable[0]} is not replaced by its value; write the path itself, or leave out the "
            "single quotes around it"
        )
    try:
        return str(_expand(text))
    except RuntimeError as error:
        raise ValueError(
            f"there is no such user; for a folder of this name, write ./{text}"
        ) from error


def _expand(text: str) -> Path:
    """The path with the home folder in the place of ``~``.

    Raises:
        RuntimeError: if there is no such user.
        ValueError: if HOME is empty, with which ``~/data`` would be ``/data``.
    """
    path = Path(text)
    starts_in_home = path.parts[:1] == ("~",)
    if starts_in_home and os.environ.get("HOME") == "":
        raise ValueError("the environment variable HOME is empty; set it, or write the path itself")
    return path.expanduser()


def check_web_address(text: Any) -> Any:
    """The address itself; values that are no text are returned unchanged.

    Raises:
        ValueError: if it is not an address of a web server.
    """
    if isinstance(text, str) and not WEB_ADDRESS.fullmatch(text):
        raise ValueError("write an address that begins with https:// or http://")
    return text


def path_argument(text: str) -> Path:
    """The type of a path for argparse: as `check_path`."""
    try:
        return Path(check_path(text))
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from error


def text_argument(text: str) -> str:
    """The type of a text in one line for argparse, such as a note."""
    if not text.strip() or not text.isprintable():
        raise ArgumentTypeError(f"{text!r}: write a text in one line, in the terminal's encoding")
    return text.strip()


def tag_argument(text: str) -> str:
    """The type of a tag for argparse: a text in one line without commas, which separate tags."""
    if "," in text:
        raise ArgumentTypeError(f"{text!r}: a tag has no comma; write --tag once for each tag")
    return text_argument(text)


def folder_argument(text: str) -> Path:
    """The type of an output folder for argparse: a folder, or a path that does not exist yet."""
    folder = path_argument(text)
    for path in (folder, *folder.parents):
        if path.is_file():
            raise ArgumentTypeError(f"{text!r}: {path} is a file; name a folder")
    return folder


def expand_home(values: Any) -> Any:
    """Plain values, such as those of a YAML file, in which texts like ``~/data`` are expanded."""
    if isinstance(values, dict):
        return {name: expand_home(value) for name, value in values.items()}
    if isinstance(values, list):
        return [expand_home(value) for value in values]
    if isinstance(values, str) and IN_HOME.match(values):
        with suppress(RuntimeError, ValueError):  # `check_path` reports it
            return str(_expand(values))
    return values
