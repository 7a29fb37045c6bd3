"""The order of the training samples in each epoch, as the sampler in the settings gives it."""

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import BaseDataset
from base.base_sampler import BaseSampler
from config.classes import find_component
from config.constructors import changed_arguments, construct, constructor_parameters
from config.schema import SamplerSettings
from utils.errors import BAD_INPUT, LoadingError, UserError, describe_error
from utils.randomness import RandomStream, preserve_global_rng, seed_global_generators

MAX_CACHED_EPOCHS = 2
MAX_SHOWN_CHARACTERS = 60  # of a value that a message quotes


class FunctionSampler:
    """A sampler that is a function.

    Args:
        function: called with those of `arguments` and ``epoch`` that it has as parameters.
        arguments: what it gets in each epoch.
    """

    def __init__(self, function: Callable[..., Tensor], arguments: Mapping[str, Any]) -> None:
        self.function = function
        self.arguments = dict(arguments)
        self.takes_epoch = "epoch" in constructor_parameters(function)

    def __call__(self, epoch: int) -> Tensor:
        """The indices of the samples of an epoch: int64, shape (N,)."""
        if self.takes_epoch:
            return self.function(**self.arguments, epoch=epoch)
        return self.function(**self.arguments)


class SampleOrder:
    """Checks the orders that a sampler returns, and caches those of the last two epochs.

    The order of an epoch is a function of the seed, the epoch and, if the sampler has a state, its
    state at the start of the epoch. `state_dict` contains that state as well, so that a run which
    is resumed in the middle of an epoch has the same order.

    Args:
        sampler: returns the indices of the samples of an epoch.
        name: the sampler in the settings, for messages.
        dataset: the training set.
        seed: random seed of the run, for samplers that draw from the global generators.
    """

    def __init__(
        self, sampler: Callable[[int], Tensor], name: str, dataset: BaseDataset, seed: int
    ) -> None:
        self.sampler = sampler
        self.name = name
        self.dataset = dataset
        self.seed = seed
        self.has_state = hasattr(sampler, "state_dict")
        if self.has_state and not hasattr(sampler, "load_state_dict"):
            raise UserError(
                f"data.sampler = {name!r}: the class defines `state_dict` "
                "without `load_state_dict`; define both, or neither"
            )
        if hasattr(sampler, "record_losses") and not self.has_state:
            raise UserError(
                f"data.sampler = {name!r}: the class defines `record_losses` without `state_dict`; "
                "define both, so that a resumed run has the same order"
            )
        self._orders: dict[int, Tensor] = {}
        self._states: dict[int, Any] = {}  # of the sampler, before it returned these orders

    @cached_property
    def samples_per_epoch(self) -> int:
        """The number of samples that the sampler returns for the first epoch."""
        return len(self(0))

    def __call__(self, epoch: int) -> Tensor:
        """The indices of the samples of an epoch, on the device of the data set.

        Returns:
            int64, shape (samples_per_epoch,).

        Raises:
            LoadingError: if the sampler fails, or returns something else.
        """
        if epoch not in self._orders:
            if self.has_state:
                self._states[epoch] = copy.deepcopy(self._sampler_state())
            self._orders[epoch] = self._compute(epoch)
            for cache in (self._orders, self._states):
                if len(cache) > MAX_CACHED_EPOCHS:
                    del cache[next(iter(cache))]
        order = self._orders[epoch].to(self.dataset.device)
        self._orders[epoch] = order
        return order

    def state_dict(self) -> dict[str, Any]:
        """The state of the sampler, now and at the start of the epoch; empty if it has none."""
        if not self.has_state:
            return {}
        epoch = max(self._states, default=0)
        return {
            "name": self.name,
            "state": self._sampler_state(),
            "epoch": epoch,
            "state_at_start": self._states.get(epoch, self._sampler_state()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned, unless it is the state of another sampler."""
        if not self.has_state or state["name"] != self.name:
            return
        _ = self.samples_per_epoch  # of the initial state
        self._orders.clear()
        self._states.clear()
        stateful: Any = self.sampler
        stateful.load_state_dict(state["state_at_start"])
        self(state["epoch"])
        stateful.load_state_dict(state["state"])

    def _sampler_state(self) -> Any:
        stateful: Any = self.sampler
        return stateful.state_dict()

    def _compute(self, epoch: int) -> Tensor:
        """Calls the sampler, and checks what it returns."""
        with preserve_global_rng():
            seed_global_generators(self.seed, RandomStream.SHUFFLING, epoch)
            try:
                order: Any = self.sampler(epoch)
            except Exception as error:  # whatever the code of a sampler may raise
                exit_code = getattr(error, "exit_code", BAD_INPUT)
                message = f"data.sampler = {self.name!r}: {describe_error(error)}"
                raise LoadingError(message, exit_code) from error
        problem = self._find_problem(order, epoch)
        if problem:
            raise LoadingError(
                f"data.sampler = {self.name!r} must return indices, int64, shape (N,); "
                f"for epoch {epoch}, it returned {problem}"
            )
        checked: Tensor = order
        return checked

    def _find_problem(self, order: Any, epoch: int) -> str:
        """Why the returned order is invalid; empty if it is valid."""
        if not isinstance(order, Tensor):
            return f"{repr(order)[:MAX_SHOWN_CHARACTERS]} ({type(order).__name__})"
        if order.dtype != torch.int64:
            return f"{order.dtype}"
        if order.ndim != 1 or len(order) == 0:
            return f"the shape {tuple(order.shape)}; N is at least 1"
        last_index = len(self.dataset) - 1
        for index in (int(order.min()), int(order.max())):
            if not 0 <= index <= last_index:
                return f"the index {index}; allowed are 0 to {last_index}"
        if epoch > 0 and len(order) != self.samples_per_epoch:
            return f"{len(order)} of them; N is {self.samples_per_epoch}, as for epoch 0"
        return ""


def build_sample_order(
    options: SamplerSettings,
    dataset: BaseDataset,
    seed: int,
    step_size: int,
    samples: Tensor | None = None,
) -> SampleOrder:
    """The order of the sampler that the settings name.

    Args:
        options: names a function or a class of data_loader/, with its arguments.
        dataset: the training set.
        seed: random seed of the run.
        step_size: samples of an optimizer step in all processes.
        samples: indices of the samples to choose from, int64, shape (N,); None for all of them.

    Raises:
        UserError: if the sampler cannot be built.
    """
    component = find_component(SamplerSettings, options.name)
    given = {"dataset": dataset, "seed": seed, "step_size": step_size, "samples": samples}
    sampler: Callable[[int], Tensor]
    try:
        if inspect.isfunction(component):
            sampler = _function_sampler(component, options, given)
        else:
            sampler = construct(options, BaseSampler, **given)
    except UserError as error:
        raise UserError(f"data.sampler: {error}", error.exit_code) from error
    return SampleOrder(sampler, options.name, dataset, seed)


def _function_sampler(
    function: Callable[..., Tensor], options: SamplerSettings, given: Mapping[str, Any]
) -> FunctionSampler:
    parameters = constructor_parameters(function)
    if "dataset" not in parameters:  # otherwise settings could call any function in data_loader/
        raise UserError(
            f"{options.name} has no parameter `dataset`; "
            "a sampler has it, and may have seed, epoch, step_size and samples"
        )
    arguments = {}
    for name, value in given.items():
        if name in parameters:
            arguments[name] = value
    arguments |= changed_arguments(function, options)
    return FunctionSampler(function, arguments)
