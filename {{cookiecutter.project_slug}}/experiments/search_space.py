"""The search space of a sweep, and whether the settings allow all of it."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.loading import load_settings
from config.reading import parse
from experiments.ranges import EXAMPLES, Choices, Range, parse_range, quote
from experiments.runs import is_repeated
from utils.errors import UserError

NOT_SEARCHABLE = ("name", "checkpoint.monitor", "checkpoint.mode")
MAX_CHECKED_COMBINATIONS = 100
MAX_SHOWN_CHARACTERS = 300  # of the settings of a trial that are refused


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

    def grid_size(self) -> int | None:
        """The number of combinations of the values; None if a range is not a list."""
        size = 1
        for axis in self.ranges.values():
            if not isinstance(axis, Choices):
                return None
            size *= len(axis.values)
        return size

    def combination(self, index: int) -> dict[str, Any]:
        """One combination of the values of a grid; the values of the last range change first.

        A list of all combinations may not fit into memory.
        """
        values: dict[str, Any] = {}
        for key in reversed(list(self.ranges)):
            axis = self.ranges[key]
            assert isinstance(axis, Choices)
            index, position = divmod(index, len(axis.values))
            values[key] = axis.values[position]
        return {key: values[key] for key in self.ranges}

    def repeated_settings(self) -> list[dict[str, Any]]:
        """The settings of each repetition of a trial; one without settings if there are none."""
        return list(_combinations({key: axis.values for key, axis in self.repetitions.items()}))

    def axes(self) -> dict[str, Any]:
        """The range, or the fixed value, of each setting."""
        return {**self.ranges, **self.repetitions, **self.fixed}


def _combinations(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


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
        elif key in NOT_SEARCHABLE:
            raise UserError(f"{key} = {quote(value)}: all trials need the same {key}")
        elif not is_repeated(key):
            ranges[key] = axis
        elif isinstance(axis, Choices):
            repetitions[key] = axis
        else:
            raise UserError(
                f"{key} = {quote(value)}: each trial is repeated with all values of {key}; "
                "use a list such as [0, 1, 2] or range(3)"
            )
    if not ranges and not repetitions:
        examples = ", ".join(EXAMPLES.values())
        raise UserError(
            f"the sweep has no range; write one as KEY=RANGE, where RANGE is [a, b, c], {examples}"
        )
    return SearchSpace(ranges, repetitions, fixed)


# Settings as text


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


def check_search_space(space: SearchSpace, settings: Mapping[str, Any]) -> None:
    """Checks whether the settings allow what the trials will use, without starting any.

    These are all values of each list, and both ends of each other range. If they have at most 100
    combinations, all of these are checked, and else a sample of 100.

    Args:
        space: the search space.
        settings: the content of the settings file of the trials.

    Raises:
        UserError: with the message of the settings, and the values of the trial.
    """
    for values in _trials_to_check(space):
        overrides = to_overrides({**space.fixed, **values})
        try:
            load_settings(settings, overrides)
        except UserError as error:
            trial = " ".join(to_overrides(values))[:MAX_SHOWN_CHARACTERS]
            raise UserError(f"{error}\n       (a trial with {trial})") from error


def _trials_to_check(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Settings of trials that together contain all values to check."""
    searched = {key: axis.checked_values for key, axis in space.ranges.items()}
    repeated = {key: axis.values for key, axis in space.repetitions.items()}
    first = {key: values[0] for key, values in {**searched, **repeated}.items()}
    yield first
    yield from _one_value_changed(first, repeated)
    if math.prod(map(len, searched.values())) <= MAX_CHECKED_COMBINATIONS:
        for combination in _combinations(searched):
            yield {**first, **combination}
        return
    yield from _one_value_changed(first, searched)
    rng = random.Random(0)
    for _ in range(MAX_CHECKED_COMBINATIONS):
        combination = {key: rng.choice(values) for key, values in searched.items()}
        yield {**first, **combination}


def _one_value_changed(
    first: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """The settings of a trial with each other value of each axis."""
    for key, values in axes.items():
        for value in values[1:]:
            yield {**first, key: value}
