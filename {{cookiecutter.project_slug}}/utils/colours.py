"""Colours on terminals."""

import os
from typing import Any

RED = 31
YELLOW = 33


def coloured(text: str, colour: int, stream: Any) -> str:
    """A text in a colour, if the stream is a terminal that shows colours.

    The variable NO_COLOR switches them off (https://no-color.org).

    Args:
        text: the text.
        colour: RED or YELLOW.
        stream: where the text will be written.
    """
    has_colours = os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb"
    if os.environ.get("NO_COLOR") or not has_colours or not stream.isatty():
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
