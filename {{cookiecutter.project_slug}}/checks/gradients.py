"""Whether each trained parameter gets a gradient, and how far a step changes the weights."""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from checks.trial import copied, make_step
from checks.verdict import Verdict, list_some
from optim.optimizers import parameters_of

STEPS = 4  # a last layer that starts at zero gives the others a gradient in the second step
MAX_UPDATE = 5.0  # norm of a change / norm of the weight in a step, above which is a warning
MAX_UPDATE_OF_ALL = 2.0  # the same ratio, above which in all layers is a failure
MIN_UPDATE = 1e-7
ACCUMULATED = 0.5  # the second gradient g2 is a sum if |g2 - 2 g1|² < this * |g2 - g1|²
ASCENDING = 0.1  # the smallest cosine of gradient and change that counts as ascent


def check_gradients(trainer: BaseTrainer) -> Verdict:
    """Makes some steps at the highest learning rate, and looks at each parameter."""
    verdict = Verdict("gradients")
    with copied(trainer) as trial:
        steps = list(trial.loaders["train"].steps(0, STEPS))
        largest = _record_largest_gradients(trial.model)
        called = _record_calls(trial.model)
        ratios: dict[str, float] = {}
        for step in steps:
            before = _copy_parameters(trial.model)
            make_step(trial, step)
            _raise_ratios(ratios, before, trial.model)
        _check_parameters(verdict, trial, largest)
        _check_frozen(verdict, trial, called)
        _check_ratios(verdict, ratios)
    with copied(trainer) as trial:
        _check_repeated_step(verdict, trial, steps[0])
    return verdict


def _record_largest_gradients(model: nn.Module) -> dict[str, float]:
    """The largest absolute value in the gradients of each parameter from now on.

    A parameter that gets no gradient has no entry; one whose gradients are zero has 0. NaN stays.
    """
    largest: dict[str, float] = {}

    def make_hook(name: str) -> Callable[[Tensor], None]:
        def record(parameter: Tensor) -> None:
            value = _largest_value(parameter.grad)
            largest.setdefault(name, 0.0)
            if math.isnan(value) or value > largest[name]:  # nothing is larger than NaN
                largest[name] = value

        return record

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(make_hook(name))
    return largest


def _largest_value(gradient: Tensor | None) -> float:
    """The largest absolute value of a gradient, which may be sparse."""
    if gradient is None or gradient.numel() == 0:
        return 0.0
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return float(gradient.detach().abs().max())


def _record_calls(model: nn.Module) -> list[str]:
    """The names of the modules with parameters of their own, in the order of their last call."""
    called: list[str] = []

    def make_hook(name: str) -> Callable[..., None]:
        def record(*_: object) -> None:
            if name in called:
                called.remove(name)
            called.append(name)

        return record

    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_pre_hook(make_hook(name))
    return called


def _copy_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _raise_ratios(ratios: dict[str, float], before: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raises the ratios to those of a step: norm of the change of a matrix / its norm before."""
    for name, parameter in model.named_parameters():
        norm = float(torch.linalg.vector_norm(before[name]))
        if parameter.ndim < 2 or not parameter.requires_grad or norm == 0:
            continue
        change = float(torch.linalg.vector_norm(parameter.detach() - before[name]))
        ratios[name] = max(change / norm, ratios.get(name, 0.0))


def _check_parameters(verdict: Verdict, trial: BaseTrainer, largest: Mapping[str, float]) -> None:
    """Finds the trained parameters without a gradient, or without an optimizer."""
    trained = {}
    for name, parameter in trial.model.named_parameters():
        if parameter.requires_grad:
            trained[name] = parameter
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
        message = f"the gradient is always zero of {list_some(zero)}; look for ReLUs that are "
        message += "never active, weights that are zero, and saturated functions"
        has_weights = any(trained[name].ndim > 1 for name in zero)
        if has_weights:
            verdict.failures.append(message)
        else:  # a bias may cancel out, as in the difference of two outputs
            verdict.warnings.append(message)
    non_finite = [name for name, value in largest.items() if not math.isfinite(value)]
    if non_finite:
        verdict.failures.append(f"the gradient is not finite of {list_some(non_finite)}")
    optimized = {id(parameter) for parameter in parameters_of(trial.optimizers)}
    forgotten = [name for name, parameter in trained.items() if id(parameter) not in optimized]
    if forgotten:
        verdict.failures.append(
            f"no optimizer trains {list_some(forgotten)}; pass all parameters in "
            "configure_optimizers, or freeze them with model.freeze"
        )


def _check_frozen(verdict: Verdict, trial: BaseTrainer, called: list[str]) -> None:
    """Finds a frozen last layer, and frozen parameters that the settings do not name.

    Args:
        verdict: what the findings are added to.
        trial: the copy of a trainer.
        called: names of modules in the order of their calls.
    """
    frozen = []
    for name, parameter in trial.model.named_parameters():
        if not parameter.requires_grad:
            frozen.append(name)
    if not frozen or not called:
        return
    verdict.figures["frozen"] = len(frozen)
    last = trial.model.get_submodule(called[-1])
    last_is_trained = any(parameter.requires_grad for parameter in last.parameters(recurse=False))
    if not last_is_trained and trial.settings.model.init_from is None:
        verdict.failures.append(
            f"the last layer is frozen with its initial weights: {called[-1]}; remove it from "
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
    if ratios[lowest] > MAX_UPDATE_OF_ALL:
        verdict.failures.append(
            "a step replaces the weights of all layers (about 1e-3 of them is usual): optimizer.lr "
            "is too high, or the inputs are not normalised"
        )
    elif ratios[highest] > MAX_UPDATE:
        verdict.warnings.append(
            f"a step replaces the weights of {highest} (about 1e-3 of them is usual); use a "
            "smaller optimizer.lr, or normalise the inputs"
        )
    if ratios[lowest] < MIN_UPDATE and not verdict.failures:
        verdict.warnings.append(f"steps hardly change {lowest} (about 1e-3 of it is usual)")


# A step that is made twice


def _check_repeated_step(verdict: Verdict, trial: BaseTrainer, step: Step) -> None:
    """Makes the same step twice from the same state.

    The gradients must be the same, and the weights must change against them.
    """
    first_optimizer, *_ = trial.optimizers
    recorded = _record_gradients(trial, first_optimizer)
    state = copy.deepcopy(trial.state_dict())
    before = _copy_parameters(trial.model)
    trial.update(step.to(trial.device))
    after = _copy_parameters(trial.model)
    steps_per_update = len(recorded)
    trial.load_state_dict(state)
    trial.update(step.to(trial.device))
    if steps_per_update == 0 or len(recorded) == steps_per_update:
        return  # the optimizer does not make a step each time
    gradients = recorded[0]
    if _is_accumulated(gradients, recorded[steps_per_update]):
        verdict.failures.append(
            "the gradients of a step are added to those of the step before; call zero_grad of each "
            "optimizer in `update`"
        )
    # After several optimizer steps, the change does not belong to one gradient.
    if steps_per_update == 1 and _goes_up(gradients, before, after):
        verdict.failures.append(
            f"{type(first_optimizer).__name__} changes the weights in the direction of the "
            "gradient, so the loss rises (gradient ascent); remove maximize=True, or a reversed "
            "sign"
        )


def _record_gradients(trial: BaseTrainer, optimizer: Optimizer) -> list[dict[str, Tensor]]:
    """The gradients, by parameter, before each step of an optimizer from now on."""
    optimized = {id(parameter) for parameter in parameters_of([optimizer])}
    recorded: list[dict[str, Tensor]] = []

    def record(*_: object) -> None:
        gradients = {}
        for name, parameter in trial.model.named_parameters():
            if parameter.grad is not None and id(parameter) in optimized:
                gradients[name] = parameter.grad.detach().clone().to_dense()
        recorded.append(gradients)

    optimizer.register_step_pre_hook(record)
    return recorded


def _is_accumulated(gradients: Mapping[str, Tensor], repeated: Mapping[str, Tensor]) -> bool:
    """Whether the gradients of the repeated step are closer to twice those of the first one."""
    difference = 0.0
    difference_from_double = 0.0
    for name, gradient in gradients.items():
        if name in repeated:
            difference += float((repeated[name] - gradient).square().sum())
            difference_from_double += float((repeated[name] - 2 * gradient).square().sum())
    return difference_from_double < ACCUMULATED * difference


def _goes_up(
    gradients: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> bool:
    """Whether the change of the weights has the direction of the gradients."""
    product = 0.0
    squared_gradients = 0.0
    squared_changes = 0.0
    for name, gradient in gradients.items():
        change = after[name] - before[name]
        product += float((gradient * change).sum())
        squared_gradients += float(gradient.square().sum())
        squared_changes += float(change.square().sum())
    return product > ASCENDING * math.sqrt(squared_gradients * squared_changes) > 0
