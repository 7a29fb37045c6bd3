"""Tokens of a text in any language, which do not depend on the Unicode form of the text."""

import re
import unicodedata
from typing import Any, Literal

LAST_MARK = 0x1FFFF  # the combining marks after it are variation selectors, which are removed


def _combining_marks() -> str:
    """Returns all characters of the category M as ranges in a class of a regular expression."""
    ranges: list[list[int]] = []
    for code in range(LAST_MARK + 1):
        if not unicodedata.category(chr(code)).startswith("M"):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


NORMALIZATION: Literal["NFKC"] = "NFKC"
# What programs for writing insert, a space without a width, and the Turkish İ, whose lower case
# would have a second, invisible dot.
REPLACED = {
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u2010": "-",  # a hyphen, and one that does not end a line
    "\u2011": "-",
    "\u200b": " ",
    "İ": "i",
}

# Variation selectors, soft hyphens, marks of the writing direction and other characters without a
# width.
INVISIBLE = (
    "[\u00ad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)
MARK = _combining_marks()
JOINER = "\u200d"  # it matters between symbols only, as in 👩‍💻
SYMBOL = rf"[^\w\s{JOINER}{MARK}]"
INVISIBLE_JOINER = f"(?<!{SYMBOL}){JOINER}|{JOINER}(?!{SYMBOL})"

# Thai, Lao, Burmese, Khmer, Japanese and Chinese are written without spaces between words.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3031-\u3035\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
SKIN_AND_TAGS = "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"  # skin tones, and flags as of Wales
TOKEN = (
    rf"(?:[^\W{UNSPACED}]+|[{MARK}]+)+"  # a word or a number
    rf"|[{UNSPACED}][{MARK}]*"  # a character of a script without spaces
    rf"|(?:{FLAG}|[^\w\s])(?:[{MARK}{SKIN_AND_TAGS}]|{JOINER}[^\w\s])*"  # a symbol or an emoji
)


def normalize_text(text: str) -> str:
    """Returns the form of a text that is the same for all ways to encode, write and type it.

    This is NFKC with folded case, without invisible characters and with straight quotes.
    """
    text = unicodedata.normalize("NFC", text)
    for character, replacement in REPLACED.items():
        text = text.replace(character, replacement)
    text = unicodedata.normalize(NORMALIZATION, text).casefold()
    text = re.sub(INVISIBLE, "", text)
    text = re.sub(INVISIBLE_JOINER, "", text)
    return unicodedata.normalize(NORMALIZATION, text)


def tokenize(text: str) -> list[str]:
    """Divides a text into words, numbers, punctuation marks and emoji.

    Combining marks belong to the word. In scripts that are written without spaces, each character
    is a token.
    """
    return re.findall(TOKEN, normalize_text(text))


def describe_tokens() -> dict[str, Any]:
    """What `tokenize` does, in steps, as plain data for programs without this project."""
    return {
        "steps": [
            "normalize it to the Unicode form NFC, and replace the characters in `replaced`",
            "normalize it to the form `normalization`, and fold its case (Unicode, full)",
            "remove all matches of each regular expression in `removed`, in this order",
            "normalize it to the form `normalization` again",
            "find all matches of the regular expression `token` (Unicode), which are tokens",
        ],
        "replaced": REPLACED,
        "normalization": NORMALIZATION,
        "removed": [INVISIBLE, INVISIBLE_JOINER],
        "token": TOKEN,
    }
