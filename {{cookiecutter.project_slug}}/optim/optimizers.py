"""Builds the optimizer that the settings name."""

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from config.classes import find_component
from config.constructors import changed_arguments
from config.schema import OptimizerSettings, Settings
from optim.parameter_groups import Group, parameter_groups
from utils.errors import UserError
from utils.parallel import is_sharded

# Devices for which torch has fused kernels: one kernel for all parameters takes a third to a
# sixth of the time, on the CPU as well.
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def build_optimizers(model: nn.Module, settings: Settings) -> list[Optimizer]:
    """The optimizer that the settings name, for the parameters that require gradients.

    Raises:
        UserError: if there is no parameter to train, or the optimizer rejects its arguments.
    """
    options = settings.optimizer
    optimizer_class = find_component(OptimizerSettings, options.name)
    arguments = changed_arguments(optimizer_class, options)
    no_decay = options.no_decay
    if no_decay is None:
        no_decay = options.name == "AdamW"
    groups = parameter_groups(
        model, options.arguments.get("lr"), options.groups, no_decay, settings.model.layer_decay
    )
    has_sparse_gradients = any(getattr(module, "sparse", False) for module in model.modules())
    may_be_fused = "fused" not in arguments and not has_sparse_gradients
    if may_be_fused and has_fused_kernel(optimizer_class, groups):
        arguments["fused"] = True
    try:
        optimizer: Optimizer = without_compiler_import(optimizer_class)(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer.name = {options.name!r}: {error}") from error
    return [optimizer]


def check_optimizers(value: Any, source: str) -> list[Optimizer]:
    """The optimizers that a method has returned: one, or a list or tuple of them.

    Args:
        value: what the method has returned.
        source: the name of the method, for messages.

    Raises:
        UserError: if it is anything else, or an empty list, or there are no learning rates.
    """
    optimizers = _as_list(value, source)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "lr" not in group:
                raise UserError(
                    f"{source}: the parameter groups of "
                    f"{type(optimizer).__name__} have no `lr`, which schedules "
                    "change and the log contains; pass it in `defaults`"
                )
    return optimizers


def _as_list(value: Any, source: str) -> list[Optimizer]:
    if isinstance(value, Optimizer):
        return [value]
    advice = "return an optimizer of torch, or a list of them"
    if not isinstance(value, list | tuple):
        raise UserError(f"{source} returned {_described(value)}; {advice}")
    if not value:
        raise UserError(f"{source} returned an empty list; {advice}")
    for item in value:
        if not isinstance(item, Optimizer):
            kind = type(value).__name__
            raise UserError(
                f"{source} returned a {kind} that contains {_described(item)}; {advice}"
            )
    return list(value)


def _described(value: Any) -> str:
    if value is None:
        return "None"
    return f"an object of the type {type(value).__name__}"


def has_fused_kernel(optimizer_class: type[Optimizer], groups: list[Group]) -> bool:
    """Whether torch can update all parameters of some groups in one kernel."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    are_real = all(parameter.is_floating_point() for parameter in parameters)
    if not are_real or parameters[0].device.type not in FUSED_DEVICES:
        return False
    if is_sharded(parameters[0]):  # torch has no fused SGD for sharded parameters
        return optimizer_class in (torch.optim.Adam, torch.optim.AdamW)
    return optimizer_class in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def without_compiler_import(optimizer_class: Any) -> Any:
    """The same optimizer, whose methods do not import torch's compiler at their first call.

    torch wraps these methods for torch.compile and for its profiler. The wrappers import
    torch._dynamo when they are first called, which takes 1.2 s, as long as `import torch` itself,
    and nothing here compiles an optimizer. Events for the profiler take 60 of the 400 µs of a
    small network's step. Hooks of an instance are called; their results are ignored.
    """
    methods: dict[str, Any] = {}
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        method = getattr(optimizer_class, name)
        if method is getattr(Optimizer, name):
            methods[name] = inspect.unwrap(method)
    if optimizer_class.zero_grad is Optimizer.zero_grad:
        methods["zero_grad"] = _zero_grad
    if optimizer_class.__module__.startswith("torch.optim."):
        methods["step"] = _plain_step(optimizer_class)
    return type(optimizer_class.__name__, (optimizer_class,), methods)


def _plain_step(optimizer_class: Any) -> Any:
    plain_step = torch.no_grad()(inspect.unwrap(optimizer_class.step))

    @functools.wraps(plain_step)
    def step(optimizer: Any, closure: Any = None) -> Any:
        for hook in optimizer._optimizer_step_pre_hooks.values():
            hook(optimizer, (closure,), {})
        loss = plain_step(optimizer, closure)
        for hook in optimizer._optimizer_step_post_hooks.values():
            hook(optimizer, (closure,), {})
        return loss

    step.hooked = True  # type: ignore[attr-defined]  # otherwise torch wraps it again
    return step


def parameters_of(optimizers: Iterable[Optimizer]) -> list[nn.Parameter]:
    """All parameters that the optimizers train."""
    parameters: list[nn.Parameter] = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            parameters += group["params"]
    return parameters


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` must be called with a function that computes the loss, as LBFGS requires."""
    optimizer_class: Any = type(optimizer)
    return _requires_closure(optimizer_class)


def make_gradients_contiguous(optimizer: Optimizer) -> None:
    """Changes the layout of gradients where LBFGS could not flatten them, as for convolutions."""
    for parameter in parameters_of([optimizer]):
        if parameter.grad is not None:
            parameter.grad = parameter.grad.contiguous()


@functools.cache
def _requires_closure(optimizer_class: Any) -> bool:
    closure = inspect.signature(optimizer_class.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


@contextmanager
def evaluation_mode(optimizers: Iterable[Any]) -> Iterator[None]:
    """Within this context, the parameters have the values to evaluate.

    They differ for optimizers with the methods `eval` and `train`, such as those of Schedule-Free
    (Defazio et al., arXiv:2405.15682). Afterwards the parameters are exactly as before.
    """
    switching = [optimizer for optimizer in optimizers if has_evaluation_mode(optimizer)]
    parameters = parameters_of(switching)
    training_values = [parameter.detach().clone() for parameter in parameters]
    for optimizer in switching:
        optimizer.eval()
    try:
        yield
    finally:
        for optimizer in switching:
            optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, training_values, strict=True):
                parameter.copy_(value)  # switching twice rounds


def has_evaluation_mode(optimizer: Any) -> bool:
    """Whether an optimizer trains other values of the parameters than are to be evaluated."""
    return hasattr(optimizer, "eval") and hasattr(optimizer, "train")


def learning_rates(optimizers: Iterable[Optimizer]) -> dict[str, float]:
    """The learning rate as ``lr``, and those of the groups whose highest rate differs from it."""
    rates: dict[str, float] = {}
    highest_rates: set[float] = set()
    for index, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            highest = float(group.get("initial_lr", group["lr"]))
            if highest in highest_rates:
                continue
            highest_rates.add(highest)
            name = group.get("name", f"optimizer {index}")
            column = f"lr of {name}" if rates else "lr"
            rates[column] = float(group["lr"])
    return rates


def _zero_grad(optimizer: Optimizer, set_to_none: bool = True) -> None:
    """`Optimizer.zero_grad` without an event for torch's profiler."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()
