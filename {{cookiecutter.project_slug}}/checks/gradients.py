"""Whether each trained parameter gets a gradient, and how far a step changes the weights."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from checks.trial import copied, make_step
from checks.verdict import Verdict, list_some
from optim.optimizers import parameters_of

STEPS = 4  # a last layer that starts at zero gives the others a gradient in the second step
MAX_UPDATE = 5.0  # of a weight, relative to it, in a step
MIN_UPDATE = 1e-7
ACCUMULATED = 0.5  # difference from twice the gradient, relative to that from the gradient


def check_gradients(trainer: BaseTrainer) -> Verdict:
    """Makes some steps at the highest learning rate, and looks at each parameter."""
    verdict = Verdict("gradients")
    with copied(trainer) as trial:
        steps = list(trial.loaders["train"].steps(0, STEPS))
        largest = _watch_gradients(trial.model)
        modules = _watch_order(trial.model)
        ratios: dict[str, float] = {}
        for step in steps:
            before = _copy_parameters(trial.model)
            make_step(trial, step)
            _update_ratios(ratios, before, trial.model)
        _check_each(verdict, trial, largest)
        _check_frozen(verdict, trial, modules)
        _check_ratios(verdict, ratios)
    with copied(trainer) as trial:
        _check_accumulation(verdict, trial, steps[0])
    return verdict


def _watch_gradients(model: nn.Module) -> dict[str, float]:
    """The largest absolute value in all gradients of each parameter, from now on."""
    largest: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hook = _GradientHook(name, largest)
            parameter.register_post_accumulate_grad_hook(hook)
    return largest


class _GradientHook:
    """Records the largest value of a gradient; NaN stays."""

    def __init__(self, name: str, largest: dict[str, float]) -> None:
        self.name = name
        self.largest = largest

    def __call__(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None or gradient.numel() == 0:
            return
        if gradient.is_sparse:
            gradient = gradient.coalesce().values()
        value = float(gradient.detach().abs().max())
        if not value <= self.largest.get(self.name, 0.0):
            self.largest[self.name] = value
        self.largest.setdefault(self.name, value)


def _watch_order(model: nn.Module) -> list[str]:
    """The names of the modules with parameters of their own, in the order of their last call."""
    order: list[str] = []

    def record(name: str) -> None:
        if name in order:
            order.remove(name)
        order.append(name)

    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, name=name: record(name))
    return order


def _copy_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _update_ratios(
    ratios: dict[str, float], before: Mapping[str, Tensor], model: nn.Module
) -> None:
    """The largest change so far of each matrix in a step, relative to its norm."""
    for name, parameter in model.named_parameters():
        norm = float(torch.linalg.vector_norm(before[name]))
        if parameter.ndim < 2 or not parameter.requires_grad or norm == 0:
            continue
        change = float(torch.linalg.vector_norm(parameter.detach() - before[name]))
        ratios[name] = max(change / norm, ratios.get(name, 0.0))


def _check_each(verdict: Verdict, trial: BaseTrainer, largest: Mapping[str, float]) -> None:
    """Finds the trained parameters without a gradient, or without an optimizer."""
    optimized = {id(parameter) for parameter in parameters_of(trial.optimizers)}
    trained = {n: p for n, p in trial.model.named_parameters() if p.requires_grad}
    verdict.figures["trained parameters"] = len(trained)
    missing = [name for name in trained if name not in largest]
    if missing and trial.options.find_unused_parameters:
        verdict.warnings.append(f"no gradient in {STEPS} steps: {list_some(missing)}")
    elif missing:
        verdict.failures.append(
            f"no gradient reaches {list_some(missing)}; use them in the loss (detach, no_grad and "
            "argmax stop gradients), or freeze them with model.freeze"
        )
    zero = [name for name, value in largest.items() if value == 0]
    if zero:
        verdict.failures.append(
            f"the gradient is always zero of {list_some(zero)}; look for ReLUs that are never "
            "active, weights that are zero, and saturated functions"
        )
    non_finite = [name for name, value in largest.items() if not math.isfinite(value)]
    if non_finite:
        verdict.failures.append(f"the gradient is not finite of {list_some(non_finite)}")
    forgotten = [name for name, parameter in trained.items() if id(parameter) not in optimized]
    if forgotten:
        verdict.failures.append(
            f"no optimizer trains {list_some(forgotten)}; pass all parameters in "
            "configure_optimizers, or freeze them with model.freeze"
        )


def _check_frozen(verdict: Verdict, trial: BaseTrainer, modules: list[str]) -> None:
    """Frozen parameters that the settings do not name, and a last layer that is frozen."""
    frozen = []
    trained = []
    for name, parameter in trial.model.named_parameters():
        if parameter.requires_grad:
            trained.append(name)
        else:
            frozen.append(name)
    if not frozen or not modules:
        return
    verdict.figures["frozen"] = len(frozen)
    last = trial.model.get_submodule(modules[-1])
    is_frozen = not any(parameter.requires_grad for parameter in last.parameters(recurse=False))
    if is_frozen and trial.settings.model.init_from is None:
        verdict.failures.append(
            f"the last layer is frozen with its initial weights: {modules[-1]}; remove it from "
            "model.freeze, or requires_grad_(False) from the model"
        )
    elif not trial.settings.model.freeze:
        verdict.warnings.append(
            f"frozen, although model.freeze does not name them: {list_some(frozen)}"
        )


def _check_ratios(verdict: Verdict, ratios: Mapping[str, float]) -> None:
    if not ratios:
        return
    lowest = min(ratios, key=lambda name: ratios[name])
    highest = max(ratios, key=lambda name: ratios[name])
    text = f"{ratios[lowest]:.1e} ({lowest}) to {ratios[highest]:.1e} ({highest})"
    verdict.figures["update / weight"] = text
    if ratios[highest] > MAX_UPDATE:
        verdict.warnings.append(
            f"a step replaces the weights of {highest} (about 1e-3 of them is usual); use a "
            "smaller optimizer.lr, or normalise the inputs"
        )
    if ratios[lowest] < MIN_UPDATE and not verdict.failures:
        verdict.warnings.append(f"steps hardly change {lowest} (about 1e-3 of it is usual)")


def _check_accumulation(verdict: Verdict, trial: BaseTrainer, step: Step) -> None:
    """Makes the same step twice from the same state: the gradients must be the same."""
    recorded: list[dict[str, Tensor]] = []

    def record(*_: object) -> None:
        gradients = {}
        for name, parameter in trial.model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.detach().clone().to_dense()
        recorded.append(gradients)

    first, *_ = trial.optimizers
    state = copy.deepcopy(trial.state_dict())
    first.register_step_pre_hook(record)
    for _ in range(2):
        trial.load_state_dict(copy.deepcopy(state))
        recorded_before = len(recorded)
        trial.update(step.to(trial.device))
        if len(recorded) == recorded_before:
            return  # the optimizer does not make a step each time
    gradients = recorded[0]
    next_gradients = recorded[len(recorded) // 2]
    difference = 0.0
    difference_from_double = 0.0
    for name, gradient in gradients.items():
        if name in next_gradients:
            difference += float((next_gradients[name] - gradient).square().sum())
            difference_from_double += float((next_gradients[name] - 2 * gradient).square().sum())
    if difference_from_double < ACCUMULATED * difference:
        verdict.failures.append(
            "the gradients of a step are added to those of the step before; call zero_grad of each "
            "optimizer in `update`"
        )
