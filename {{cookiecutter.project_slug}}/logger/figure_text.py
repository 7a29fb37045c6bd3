"""Texts in figures: fonts for many scripts, sizes, and names that are too long."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from logger.console import log

FONT = "DejaVu Sans"  # which Matplotlib contains
CJK_FONTS = re.compile("CJK|Gothic|Nanum|YaHei|Unicode MS")  # Chinese, Japanese and Korean
FIRST_CJK_CHARACTER = "\u2e80"

_warnings: list[str] = []  # those that were logged: one is enough


def cjk_fonts() -> list[str]:
    """Returns the known fonts with Chinese, Japanese or Korean characters."""
    from matplotlib import font_manager

    return sorted(filter(CJK_FONTS.search, font_manager.get_font_names()))


def find_fonts_for(texts: Iterable[str]) -> None:
    """Finds a font for Chinese, Japanese or Korean texts; logs a warning if glyphs are missing.

    Matplotlib remembers which fonts were installed when it was first used, so those that were
    installed later are added here. Call it in `drawing_style`.
    """
    characters = "".join(texts)
    if characters.isascii():
        return
    if max(characters) >= FIRST_CJK_CHARACTER and not cjk_fonts():
        _add_cjk_fonts()
    missing = set(characters)
    for family in (FONT, *cjk_fonts()):
        missing -= _characters_of(family)
    missing = {character for character in missing if character.isprintable()}
    if missing:
        warn_about_missing_glyphs(min(missing))


def _add_cjk_fonts() -> None:
    """Adds the fonts for Chinese, Japanese or Korean that are installed by now."""
    import matplotlib
    from matplotlib import font_manager

    for file in font_manager.findSystemFonts():
        if CJK_FONTS.search(Path(file).stem):
            font_manager.fontManager.addfont(file)
    matplotlib.rcParams["font.family"] = [FONT, *cjk_fonts()]


@cache
def _characters_of(family: str) -> frozenset[str]:
    """The characters that a font has; none if it cannot be found."""
    from matplotlib import font_manager

    try:
        file = font_manager.findfont(family, fallback_to_default=False)
    except ValueError:
        return frozenset()
    return frozenset(map(chr, font_manager.get_font(file).get_charmap()))


def warn_about_missing_glyphs(character: str) -> None:
    """Logs a warning, once for each start of a command.

    Args:
        character: one that no font has.
    """
    message = f"figures show boxes for characters such as {character!r}: neither {FONT} nor an "
    message += "installed CJK font has them; for Chinese, Japanese and Korean, install Noto Sans "
    message += "CJK; for other scripts, write the names in Latin letters"
    if not _warnings:
        _warnings.append(message)
        log.warning("%s", message)


def text_sizes(texts: Sequence[str], **properties: Any) -> list[tuple[float, float]]:
    """Width and height of texts in inches, with these properties of `matplotlib.text.Text`."""
    from matplotlib.figure import Figure

    figure = Figure()
    sizes = []
    for text in texts:
        extent = figure.text(0, 0, text, **properties).get_window_extent()
        sizes.append((extent.width / figure.dpi, extent.height / figure.dpi))
    return sizes


def wrap_heading(heading: str, width: float) -> str:
    """A heading in as few lines as fit a width in inches, which are about equally long."""
    import matplotlib

    size = matplotlib.rcParams["figure.titlesize"]
    weight = matplotlib.rcParams["figure.titleweight"]
    ((needed_width, _),) = text_sizes([heading], fontsize=size, fontweight=weight)
    if needed_width <= width:
        return heading
    columns = max(int(len(heading) * width / needed_width), 1)
    lines = textwrap.wrap(heading, columns)
    while columns > 1:
        columns -= 1
        narrower_lines = textwrap.wrap(heading, columns)
        if len(narrower_lines) > len(lines):
            break
        lines = narrower_lines
    return "\n".join(lines)
