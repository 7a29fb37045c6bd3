"""Optimizers by name, and learning rates as functions of the step alone (so nothing to save)."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from config.schema import SGD, AdamW, Constant, Exponential, Muon, OneCycle, Settings, Step
from utils.errors import UserError
from utils.parallel import own


def build_optimizers(model: nn.Module, settings: Settings) -> list[Optimizer]:
    """The optimizers that the settings name, for the parameters that are trained.

    One, but for Muon, which takes matrices only (Jordan et al., 2024, "Muon: an optimizer for
    hidden layers"): the parameters that are none get an AdamW beside it.

    Raises:
        UserError: if there is nothing for the optimizer to train.
    """
    options = settings.optimizer
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("model.freeze leaves no parameter to train")
    arguments: dict[str, Any] = options.model_dump(exclude={"name", "adamw_lr"})
    # One kernel for all parameters: a third to a sixth of the time, on the CPU too.
    fused: dict[str, Any] = {"fused": parameters[0].device.type in ("cpu", "cuda", "mps", "xpu")}
    if not isinstance(options, Muon):
        shared_out = hasattr(parameters[0], "placements")  # for which torch has no fused SGD
        arguments |= fused if isinstance(options, AdamW if shared_out else SGD | AdamW) else {}
        try:
            return [light(getattr(torch.optim, options.name))(parameters, **arguments)]
        except ValueError as error:
            raise UserError(f"optimizer: {error}") from error
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    if not matrices:
        raise UserError("optimizer.name = 'Muon': the model has no matrices to train; use AdamW")
    optimizers = [light(torch.optim.Muon)(matrices, **arguments)]
    if others:
        optimizers.append(light(torch.optim.AdamW)(others, lr=options.adamw_lr, **fused))
    return optimizers


def light(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    """The same optimizer, but for wrappers around its methods: those for torch.compile, and hooks.

    Nothing here compiles them, and each of the former imports the whole compiler when first called:
    1.3 s. Calling hooks that nobody has set took a tenth of a tiny network's step.
    """

    def zero_grad(self: Optimizer, set_to_none: bool = True) -> None:
        if not set_to_none:
            raise ValueError("gradients are set to None here, not to zero")
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def no_hooks(self: Optimizer, *_: Any) -> None:
        raise ValueError("hooks of a step are not called here; override BaseTrainer.update")

    names = ("add_param_group", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods |= {"step": torch.no_grad()(inspect.unwrap(kind.step)), "zero_grad": zero_grad}
    methods["step"].hooked = True  # so torch does not wrap it once more
    methods |= dict.fromkeys(("register_step_pre_hook", "register_step_post_hook"), no_hooks)
    return type(kind.__name__, (kind,), methods)


class MovingAverage(AveragedModel):
    """The moving average of the weights, of each only what this process holds.

    As torch's, but for what that one does in each step: it waits for the device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay, self.pairs = decay, list[tuple[Tensor, Tensor]]()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards the weights; at first, it is the weights."""
        if not self.pairs:  # to look for them takes a while
            both = [[*one.parameters(), *one.buffers()] for one in (self.module, model)]
            self.pairs = [(own(average), own(value)) for average, value in zip(*both, strict=True)]
        floats = [pair for pair in self.pairs if pair[0].is_floating_point()]
        for average, value in self.pairs:
            if self.n_averaged == 0 or not average.is_floating_point():
                average.copy_(value)
        if self.n_averaged > 0:  # which is on the CPU
            averages, values = zip(*floats, strict=True)
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        self.n_averaged += 1


def set_learning_rates(
    optimizers: Iterable[Optimizer], settings: Settings, step: int, total: int, steps_per_epoch: int
) -> float:
    """Sets every learning rate to a share, which is returned, of the one that its group began with.

    It is what `rate_factor` gives.
    """
    factor = rate_factor(settings, step, total, steps_per_epoch)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
    return factor


def rate_factor(settings: Settings, step: int, total: int, steps_per_epoch: int) -> float:
    """The share of the highest learning rate that step `step` of `total` is made with."""
    schedule, epoch = settings.scheduler, step // steps_per_epoch
    if isinstance(schedule, Step):
        return schedule.factor ** (epoch // schedule.epochs)
    if isinstance(schedule, Exponential):
        return schedule.factor**epoch
    if isinstance(schedule, Constant):
        return 1.0
    rise = round(total * schedule.warmup)
    if step < rise:
        return schedule.start + (1 - schedule.start) * (step + 1) / (rise + 1)
    past = (step - rise) / (total - rise)
    fall = past if isinstance(schedule, OneCycle) else (1 - math.cos(math.pi * past)) / 2
    return 1 - (1 - schedule.final) * fall
