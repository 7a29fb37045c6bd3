"""How Optuna chooses and stores the values of a trial."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from experiments.ranges import Choices, FloatRange, Range

INDEX = "index"  # attribute of a trial in Optuna: its number in the sweep
Label = str | int | float | bool | None


def to_distribution(axis: Range) -> BaseDistribution:
    """A range as Optuna describes it."""
    if isinstance(axis, Choices):
        return CategoricalDistribution(_labels(axis))
    if isinstance(axis, FloatRange):
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    return IntDistribution(axis.low, axis.high)


def to_label(axis: Range, value: Any) -> Any:
    """A value as Optuna stores it: a list or a mapping as its JSON text."""
    if isinstance(axis, Choices):
        return _labels(axis)[axis.values.index(value)]
    return value


def from_label(axis: Range, label: Any) -> Any:
    """The value that Optuna has stored."""
    if isinstance(axis, Choices):
        return axis.values[_labels(axis).index(label)]
    return label


def suggest(trial: Trial, key: str, axis: Range) -> Any:
    """The value of a setting in a trial; Optuna chooses it if it has none yet."""
    if isinstance(axis, Choices):
        return from_label(axis, trial.suggest_categorical(key, _labels(axis)))
    if isinstance(axis, FloatRange):
        return trial.suggest_float(key, axis.low, axis.high, log=axis.log)
    return trial.suggest_int(key, axis.low, axis.high)


def _labels(choices: Choices) -> list[Label]:
    labels: list[Label] = []
    for value in choices.values:
        if isinstance(value, list | dict):
            labels.append(json.dumps(value, ensure_ascii=False))
        else:
            labels.append(value)
    return labels


class SeededSampler(BaseSampler):
    """Chooses all values of a trial at once, with a random seed of its own.

    What was killed or which worker runs a trial has therefore no effect on its values. Those of
    TPE depend on which trials have ended before.

    Args:
        is_tpe: whether TPE chooses the values; otherwise, they are random.
        seed: the seed of the sweep.
        space: the distributions of all settings that are searched.
    """

    def __init__(self, is_tpe: bool, seed: int, space: Mapping[str, BaseDistribution]) -> None:
        self.is_tpe = is_tpe
        self.seed = seed
        self.space: dict[str, BaseDistribution] = {}
        for key, distribution in space.items():
            if not distribution.single():  # Optuna itself uses the only value
                self.space[key] = distribution

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole search space, so that `sample_relative` chooses all values."""
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of a trial."""
        seeds = np.random.SeedSequence([self.seed, trial.user_attrs[INDEX]])
        seed = int(seeds.generate_state(1)[0])
        sampler: BaseSampler = RandomSampler(seed=seed)
        if self.is_tpe:
            sampler = TPESampler(seed=seed)
        values = sampler.sample_relative(study, trial, search_space)
        for key, distribution in search_space.items():
            if key not in values:  # TPE starts with random trials
                values[key] = sampler.sample_independent(study, trial, key, distribution)
        return values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Is not called: `sample_relative` chooses all values.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(param_name)
