"""Optimizers by the name in the settings."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from config.schema import SGD, AdamW, Muon, RMSprop, Settings
from utils.errors import UserError
from utils.parallel import is_sharded

# Devices for which torch has fused kernels: one kernel for all parameters takes a third to a
# sixth of the time, on the CPU as well.
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def build_optimizers(model: nn.Module, settings: Settings) -> list[Optimizer]:
    """The optimizers that the settings name, for the parameters that require gradients.

    There is one, except for Muon (Jordan et al., 2024, "Muon: an optimizer for hidden layers"),
    which trains matrices only: a second optimizer, AdamW, trains all other parameters.

    Raises:
        UserError: if there is no parameter to train, or the optimizer rejects its arguments.
    """
    options = settings.optimizer
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("the model has no parameter to train; check model.freeze")
    try:
        if isinstance(options, Muon):
            return _build_muon(options, parameters)
        return [_build_single(options, parameters)]
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error


def _build_single(options: SGD | AdamW | RMSprop, parameters: list[nn.Parameter]) -> Optimizer:
    optimizer_class = without_compiler_import(getattr(torch.optim, options.name))
    arguments = options.model_dump(exclude={"name"})
    # torch has no fused RMSprop, and no fused SGD for sharded parameters.
    has_fused_kernel = isinstance(options, AdamW)
    if isinstance(options, SGD) and not is_sharded(parameters[0]):
        has_fused_kernel = True
    if has_fused_kernel:
        arguments["fused"] = _supports_fused(parameters)
    optimizer: Optimizer = optimizer_class(parameters, **arguments)
    return optimizer


def _build_muon(options: Muon, parameters: list[nn.Parameter]) -> list[Optimizer]:
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    if not matrices:
        raise UserError(
            "optimizer.name = 'Muon': the model has no matrices to train; use AdamW instead"
        )
    arguments = options.model_dump(exclude={"name", "adamw_lr"})
    optimizers = [without_compiler_import(torch.optim.Muon)(matrices, **arguments)]
    if others:
        fused = _supports_fused(others)
        adamw_class = without_compiler_import(torch.optim.AdamW)
        optimizers.append(adamw_class(others, lr=options.adamw_lr, fused=fused))
    return optimizers


def _supports_fused(parameters: list[nn.Parameter]) -> bool:
    are_real = all(p.is_floating_point() for p in parameters)
    return are_real and parameters[0].device.type in FUSED_DEVICES


def without_compiler_import(optimizer_class: Any) -> Any:
    """The same optimizer, whose methods do not import torch's compiler at their first call.

    torch wraps these methods for torch.compile and for its profiler. The wrappers import
    torch._dynamo when they are first called, which takes 1.2 s, as long as `import torch` itself,
    and nothing here compiles an optimizer. Events for the profiler take 60 of the 400 µs of a
    small network's step. Hooks of an instance are called; their results are ignored.
    """
    plain_step = torch.no_grad()(inspect.unwrap(optimizer_class.step))

    def step(optimizer: Any, closure: Any = None) -> Any:
        for hook in optimizer._optimizer_step_pre_hooks.values():
            hook(optimizer, (closure,), {})
        result = plain_step(optimizer, closure)
        for hook in optimizer._optimizer_step_post_hooks.values():
            hook(optimizer, (closure,), {})
        return result

    methods: dict[str, Any] = {"step": step, "zero_grad": _zero_grad}
    step.hooked = True  # type: ignore[attr-defined]  # otherwise torch wraps it again
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        methods[name] = inspect.unwrap(getattr(optimizer_class, name))
    return type(optimizer_class.__name__, (optimizer_class,), methods)


def _zero_grad(optimizer: Optimizer, set_to_none: bool = True) -> None:
    """`Optimizer.zero_grad` without an event for torch's profiler."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()
