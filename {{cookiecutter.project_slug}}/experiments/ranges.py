"""The values that a sweep tries for one setting: a list, or all numbers between two ends."""

import ast
import difflib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError

EXAMPLES = {
    "log": "log(1e-4, 1e-1)",
    "uniform": "uniform(0, 0.5)",
    "int": "int(2, 8)",
    "range": "range(3)",
}
SYNONYMS = {"loguniform": "log", "log_uniform": "log", "randint": "int"}  # in other libraries
CALL = re.compile(r"(\w+)(\s*)\(.*", re.DOTALL)
MAX_CHOICES = 1000
MAX_SHOWN_CHARACTERS = 60  # of a value that a message quotes


@dataclass(frozen=True)
class Choices:
    """A list of values.

    Attributes:
        values: the values, as plain types of YAML.
    """

    values: tuple[Any, ...]

    @property
    def checked_values(self) -> tuple[Any, ...]:
        """The values that are checked against the settings: all of them."""
        return self.values


@dataclass(frozen=True)
class FloatRange:
    """All numbers between two ends.

    Attributes:
        low: the lower end.
        high: the upper end.
        log: whether the logarithm of the number is uniformly distributed, or the number itself.
    """

    low: float
    high: float
    log: bool

    @property
    def checked_values(self) -> tuple[Any, ...]:
        """The values that are checked against the settings: both ends."""
        return (self.low, self.high)


@dataclass(frozen=True)
class IntRange:
    """All whole numbers between two ends, which are included.

    Attributes:
        low: the lower end.
        high: the upper end.
    """

    low: int
    high: int

    @property
    def checked_values(self) -> tuple[Any, ...]:
        """The values that are checked against the settings: both ends."""
        return (self.low, self.high)


Range = Choices | FloatRange | IntRange


def parse_range(key: str, value: Any) -> Range | None:
    """The range that a value stands for; None if it is the value of the setting itself.

    Args:
        key: the setting, for messages.
        value: a list, or a text such as ``log(1e-4, 1e-1)``, which is not evaluated.

    Raises:
        UserError: if the range is invalid or contains no values.
    """
    subject = f"{key} = {quote(value)}"
    if isinstance(value, list):
        return _make_choices(subject, value)
    if not isinstance(value, str):
        return None
    call = CALL.fullmatch(value.strip())
    if call is None:
        return None
    name = call[1]
    if name not in EXAMPLES:
        similar = _similar_range(name.lower())
        if similar is not None:
            raise UserError(f"{subject}: there is no range {name}; did you mean {similar}?")
        if call[2]:  # a space, as in `demo (2)`: a text
            return None
        raise UserError(
            f"{subject}: there is no range {name}; use [a, b, c], {', '.join(EXAMPLES.values())}; "
            f"if it is the value itself, write it as a list: [{json.dumps(value)}]"
        )
    arguments = _read_arguments(subject, value, name)
    if name == "range":
        return _make_choices(subject, _list_integers(subject, arguments))
    return _make_interval(subject, name, arguments)


def _similar_range(name: str) -> str | None:
    """The range that a name may stand for; None if there is none."""
    if name in SYNONYMS:
        return SYNONYMS[name]
    similar = difflib.get_close_matches(name, EXAMPLES, n=1)
    if not similar:
        return None
    return similar[0]


def _make_choices(subject: str, values: list[Any]) -> Choices:
    if not values:
        raise UserError(f"{subject}: the range contains no values")
    for position, value in enumerate(values):
        if value in values[:position]:
            raise UserError(f"{subject}: the value {quote(value)} occurs twice")
    return Choices(tuple(values))


def _read_arguments(subject: str, text: str, name: str) -> list[int | float]:
    """The numbers in the parentheses of a range."""
    if not text.strip().endswith(")"):
        raise UserError(f"{subject} must end with a parenthesis, as in {EXAMPLES[name]}")
    problem = f"{subject} must contain only numbers, as in {EXAMPLES[name]}"
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(problem) from error
    if not isinstance(call, ast.Call) or call.keywords:
        raise UserError(problem)
    numbers: list[int | float] = []
    for node in call.args:
        try:
            number = ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(problem) from error
        if not _is_finite_number(number):
            raise UserError(problem)
        numbers.append(number)
    return numbers


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _list_integers(subject: str, arguments: list[int | float]) -> list[int]:
    """The values of ``range(n)``, ``range(a, b)`` or ``range(a, b, step)``."""
    problem = (
        f"{subject}: use range(n), range(a, b) or range(a, b, step) with whole numbers; b is not "
        "included"
    )
    integers = [number for number in arguments if isinstance(number, int)]
    if len(integers) < len(arguments):
        raise UserError(problem)
    try:
        values = range(*integers)
    except (TypeError, ValueError) as error:  # no argument or more than three; a step of 0
        raise UserError(problem) from error
    if len(values[: MAX_CHOICES + 1]) > MAX_CHOICES:  # len() of a huge range is an error
        raise UserError(f"{subject}: a list has at most {MAX_CHOICES} values; use int(a, b)")
    return list(values)


def _make_interval(subject: str, name: str, arguments: list[int | float]) -> FloatRange | IntRange:
    """The range ``log(low, high)``, ``uniform(low, high)`` or ``int(low, high)``."""
    if len(arguments) != 2:
        raise UserError(f"{subject}: give both ends, as in {EXAMPLES[name]}")
    low, high = arguments
    if low >= high:
        raise UserError(f"{subject}: the first end must be below the second one")
    if name == "int":
        if isinstance(low, float) or isinstance(high, float):
            raise UserError(f"{subject}: both ends of int must be whole numbers")
        return IntRange(low, high)
    if name == "log" and low <= 0:
        raise UserError(f"{subject}: both ends of log must be greater than 0")
    return FloatRange(float(low), float(high), log=name == "log")


def quote(value: Any) -> str:
    """A value as the start of its JSON text, without control characters, for messages."""
    text = value
    if not isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    if len(text) > MAX_SHOWN_CHARACTERS:
        text = text[:MAX_SHOWN_CHARACTERS] + "..."
    escaped = json.dumps(text, ensure_ascii=False).removeprefix('"').removesuffix('"')
    return escaped.replace('\\"', '"')
