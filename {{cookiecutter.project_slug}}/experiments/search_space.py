"""The search space of a sweep: how ranges are written, and whether the settings allow them."""

import ast
import difflib
import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.loading import load_settings
from config.reading import parse, read_file
from utils.errors import UserError

CALL = re.compile(r"(\w+)\s*\(.*", re.DOTALL)
FORMS = {
    "log": "log(1e-4, 1e-1)",
    "uniform": "uniform(0, 0.5)",
    "int": "int(2, 8)",
    "range": "range(3)",
}
# The values of these settings are repetitions of a trial, whose value is their mean.
REPETITIONS = ("seed", "data.fold")
NOT_SEARCHABLE = ("name", "checkpoint.monitor", "checkpoint.mode")
MAX_CHOICES = 1000
MAX_CHECKED_COMBINATIONS = 100
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

    @property
    def labels(self) -> list[str | int | float | bool | None]:
        """The values as Optuna stores them: a list or a mapping as its JSON text."""
        labels: list[str | int | float | bool | None] = []
        for value in self.values:
            if isinstance(value, list | dict):
                labels.append(json.dumps(value, ensure_ascii=False))
            else:
                labels.append(value)
        return labels


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


@dataclass(frozen=True)
class SearchSpace:
    """The settings of the trials of a sweep.

    Attributes:
        ranges: the settings that are searched.
        repetitions: the settings whose values are repetitions of each trial, such as seeds.
        fixed: the settings that are the same in all trials.
    """

    ranges: Mapping[str, Range]
    repetitions: Mapping[str, Choices]
    fixed: Mapping[str, Any]

    def grid(self) -> list[dict[str, Any]] | None:
        """All combinations of the values; None if a range is not a list."""
        axes: list[tuple[Any, ...]] = []
        for axis in self.ranges.values():
            if not isinstance(axis, Choices):
                return None
            axes.append(axis.values)
        return [dict(zip(self.ranges, values, strict=True)) for values in itertools.product(*axes)]

    def repeated_settings(self) -> list[dict[str, Any]]:
        """The settings of each repetition of a trial; one without settings if there are none."""
        axes = [axis.values for axis in self.repetitions.values()]
        return [
            dict(zip(self.repetitions, values, strict=True)) for values in itertools.product(*axes)
        ]


def make_search_space(values: Mapping[str, Any]) -> SearchSpace:
    """Divides settings into those that are searched, repeated and fixed.

    Args:
        values: the value or the range of each setting, as `parse_range` reads it.

    Raises:
        UserError: if a range is invalid, or there is none.
    """
    ranges: dict[str, Range] = {}
    repetitions: dict[str, Choices] = {}
    fixed: dict[str, Any] = {}
    for key, value in values.items():
        axis = parse_range(key, value)
        if axis is None:
            fixed[key] = value
            continue
        if key in NOT_SEARCHABLE:
            raise UserError(f"{key} = {_quote(value)}: all trials need the same {key}")
        if key not in REPETITIONS:
            ranges[key] = axis
        elif isinstance(axis, Choices):
            repetitions[key] = axis
        else:
            raise UserError(
                f"{key} = {_quote(value)}: each trial is repeated with all values of {key}; "
                "use a list such as [0, 1, 2] or range(3)"
            )
    if not ranges and not repetitions:
        forms = ", ".join(FORMS.values())
        raise UserError(
            f"the sweep has no range; write one as KEY=RANGE, where RANGE is [a, b, c], {forms}"
        )
    return SearchSpace(ranges, repetitions, fixed)


def parse_range(key: str, value: Any) -> Range | None:
    """The range that a value stands for; None for the value of a setting.

    Args:
        key: the setting, for messages.
        value: a list, or a text such as ``log(1e-4, 1e-1)``, which is not evaluated.

    Raises:
        UserError: if the range is invalid or contains no values.
    """
    if isinstance(value, list):
        return _make_choices(key, value, value)
    if not isinstance(value, str):
        return None
    call = CALL.fullmatch(value.strip())
    if call is None:
        return None
    name = call[1]
    if name not in FORMS:
        similar = difflib.get_close_matches(name.lower(), FORMS, n=1)
        if not similar:
            return None
        raise UserError(
            f"{key} = {_quote(value)}: there is no range {name}; did you mean {similar[0]}?"
        )
    numbers = _arguments(key, value, name)
    if name == "range":
        return _make_choices(key, value, _integers(key, value, numbers))
    return _make_interval(key, value, name, numbers)


def _arguments(key: str, text: str, name: str) -> list[int | float]:
    """The numbers in the parentheses of a range."""
    problem = f"{key} = {_quote(text)} must contain only numbers, as in {FORMS[name]}"
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
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number):
            raise UserError(problem)
        numbers.append(number)
    return numbers


def _integers(key: str, text: str, numbers: list[int | float]) -> list[int]:
    """The values of ``range(n)``, ``range(a, b)`` or ``range(a, b, step)``."""
    arguments = [number for number in numbers if isinstance(number, int)]
    if len(arguments) < len(numbers) or not 1 <= len(numbers) <= 3 or 0 in arguments[2:]:
        raise UserError(
            f"{key} = {_quote(text)}: use range(n), range(a, b) or range(a, b, step) with whole "
            "numbers; b is not included"
        )
    values = list(itertools.islice(range(*arguments), MAX_CHOICES + 1))
    if len(values) > MAX_CHOICES:
        raise UserError(
            f"{key} = {_quote(text)}: a list has at most {MAX_CHOICES} values; use int(a, b)"
        )
    return values


def _make_interval(
    key: str, text: str, name: str, numbers: list[int | float]
) -> FloatRange | IntRange:
    """The range ``log(low, high)``, ``uniform(low, high)`` or ``int(low, high)``."""
    written = f"{key} = {_quote(text)}"
    if len(numbers) != 2:
        raise UserError(f"{written}: give both ends, as in {FORMS[name]}")
    low, high = numbers
    if low >= high:
        raise UserError(f"{written}: the first end must be below the second one")
    if name == "int":
        if isinstance(low, float) or isinstance(high, float):
            raise UserError(f"{written}: both ends of int must be whole numbers")
        return IntRange(low, high)
    if name == "log" and low <= 0:
        raise UserError(f"{written}: both ends of log must be greater than 0")
    return FloatRange(float(low), float(high), log=name == "log")


def _make_choices(key: str, written: Any, values: list[Any]) -> Choices:
    if not values:
        raise UserError(f"{key} = {_quote(written)}: the range contains no values")
    for position, value in enumerate(values):
        if value in values[:position]:
            raise UserError(f"{key} = {_quote(written)}: the value {_quote(value)} occurs twice")
    return Choices(tuple(values))


def _quote(value: Any) -> str:
    text = value
    if not isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    if len(text) > MAX_SHOWN_CHARACTERS:
        text = text[:MAX_SHOWN_CHARACTERS] + "..."
    return json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"')


def to_overrides(values: Mapping[str, Any]) -> list[str]:
    """Settings as the ``KEY=VALUE`` arguments of train.py."""
    return [f"{key}={_as_yaml(value)}" for key, value in values.items()]


def _as_yaml(value: Any) -> str:
    """A value as YAML reads it; a text without quotes where that is possible."""
    if isinstance(value, str):
        try:
            if parse(value, "the value") == value:
                return value
        except UserError:
            pass  # it needs quotes
    return json.dumps(value, ensure_ascii=False)


def describe_values(values: Mapping[str, Any]) -> str:
    """Settings as ``KEY=VALUE`` for people: numbers are rounded."""
    shown: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float):
            shown[key] = float(f"{value:.6g}")
        else:
            shown[key] = value
    return " ".join(to_overrides(shown))


# Checking


def check_search_space(space: SearchSpace, config: Path) -> None:
    """Checks whether the settings allow what the trials will use, without starting any.

    These are all values of each list, and both ends of each other range. If they have at most 100
    combinations, all of these are checked, and else a sample of 100.

    Args:
        space: the search space.
        config: the settings file of the trials.

    Raises:
        UserError: with the message of the settings, and the values of the trial.
    """
    settings = read_file(config)
    for values in _combinations_to_check(space):
        overrides = to_overrides({**space.fixed, **values})
        try:
            load_settings(settings, overrides)
        except UserError as error:
            trial = " ".join(to_overrides(values))
            raise UserError(f"{error}\n       (a trial with {trial[:300]})") from error


def _combinations_to_check(space: SearchSpace) -> Iterator[dict[str, Any]]:
    searched = {key: axis.checked_values for key, axis in space.ranges.items()}
    repeated = {key: axis.values for key, axis in space.repetitions.items()}
    axes = {**searched, **repeated}
    first = {key: values[0] for key, values in axes.items()}
    yield first
    single_axes = repeated
    count = math.prod(len(values) for values in searched.values())
    if count > MAX_CHECKED_COMBINATIONS:
        single_axes = axes
    for key, values in single_axes.items():
        for value in values[1:]:
            yield {**first, key: value}
    if count <= MAX_CHECKED_COMBINATIONS:
        for combination in itertools.product(*searched.values()):
            yield {**first, **dict(zip(searched, combination, strict=True))}
        return
    rng = random.Random(0)
    for _ in range(MAX_CHECKED_COMBINATIONS):
        yield {**first, **{key: rng.choice(values) for key, values in searched.items()}}
