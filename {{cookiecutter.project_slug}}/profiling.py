"""Where the time of a training step goes: trainer.profile=N."""

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch.autograd.profiler import record_function
from torch.profiler import profile

from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from logger.console import format_table, log
from utils.ranks import is_main_process

WARM_UP_STEPS = 5  # the first steps take longer
FORWARD = "forward"
OPTIMIZER = "optimizer"
# The names of torch's own events begin with this.
BACKWARD_EVENTS = "autograd::engine::evaluate_function"


def log_profile(trainer: BaseTrainer, steps: int) -> None:
    """Logs where the time of a step goes."""
    table = profile_steps(trainer, steps)
    trace = trainer.run / "profile/trace.json"
    log.info("%s\ntrace of the steps, for https://ui.perfetto.dev: %s\n", table, trace)


def profile_steps(trainer: BaseTrainer, steps: int) -> str:
    """Makes some steps under torch's profiler, and undoes them.

    It writes ``profile/trace.json`` in the run folder, for https://ui.perfetto.dev. The profiler
    makes the steps slower.

    Returns:
        A table of the parts of a step: milliseconds and percentage. For an accelerator, these are
        the times of its kernels.
    """
    state_before = copy.deepcopy(trainer.state_dict())
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler reports errors only
    first = trainer.progress.step
    source = trainer.loaders["train"].steps(first, first + WARM_UP_STEPS + steps)
    for _ in range(WARM_UP_STEPS):
        _make_step(trainer, next(source))
    with (
        _labelled_forward(trainer.model),
        _labelled_steps(trainer.optimizers),
        profile(acc_events=True) as profiler,
    ):
        trainer.meter.restart_timer()
        started = perf_counter()
        for step in trainer.meter.time_waiting(source):
            _make_step(trainer, step)
        if trainer.device.type != "cpu":
            torch.accelerator.synchronize(trainer.device)
        total_seconds = perf_counter() - started
    seconds_waiting = trainer.meter.seconds_waiting
    trainer.load_state_dict(state_before)
    if is_main_process():
        folder = trainer.run / "profile"
        folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(folder / "trace.json"))

    on_device = trainer.device.type != "cpu"
    seconds = {
        "waiting for data": seconds_waiting,
        "forward": _seconds(profiler, FORWARD, on_device),
        "backward": _seconds(profiler, BACKWARD_EVENTS, on_device),
        "optimizer": _seconds(profiler, OPTIMIZER, on_device),
    }
    seconds["other"] = total_seconds - sum(seconds.values())
    rows = [("part of a step", "ms", "%")]
    for part, value in seconds.items():
        rows.append((part, f"{1e3 * value / steps:.3f}", f"{100 * value / total_seconds:.1f}"))
    return format_table(rows)


def _make_step(trainer: BaseTrainer, step: Step) -> None:
    trainer.update(step.to(trainer.device))
    trainer.progress.step += 1


@contextmanager
def _labelled_forward(model: torch.nn.Module) -> Iterator[None]:
    """Within this context, the trace has an event for each forward pass of the model."""
    label = _Label(FORWARD)
    hooks = [model.register_forward_pre_hook(label.begin), model.register_forward_hook(label.end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _labelled_steps(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[None]:
    """Within this context, the trace has an event for each step of an optimizer."""
    label = _Label(OPTIMIZER)
    hooks = []
    for optimizer in optimizers:
        hooks.append(optimizer.register_step_pre_hook(label.begin))
        hooks.append(optimizer.register_step_post_hook(label.end))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Label:
    """Hooks that begin and end an event of the trace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Any] = []

    def begin(self, *_: Any) -> None:
        event = record_function(self.name)
        event.__enter__()
        self.events.append(event)

    def end(self, *_: Any) -> None:
        self.events.pop().__exit__(None, None, None)


def _seconds(profiler: Any, name_start: str, on_device: bool) -> float:
    """The total time of the events whose names begin so."""
    microseconds = 0.0
    for event in profiler.events():
        if not event.name.startswith(name_start):
            continue
        if on_device:
            microseconds += event.device_time_total
        else:
            microseconds += event.cpu_time_total
    return microseconds / 1e6
