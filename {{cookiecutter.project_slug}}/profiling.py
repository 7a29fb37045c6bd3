"""Where the time of a training step goes."""

import copy
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import torch
from torch.profiler import profile, record_function

from base.base_trainer import BaseTrainer
from logger.console import format_table
from utils.device import move
from utils.errors import RANK

WARM_UP = 5  # steps that are not looked at, as the first ones take longer


def profile_steps(trainer: BaseTrainer, steps: int) -> str:
    """Makes some steps, looks at them, and takes them back.

    ``profile/trace.json`` in the run folder, which https://ui.perfetto.dev shows, is what torch's
    profiler has seen; recording it makes the steps slower.

    Returns:
        A table: milliseconds of the parts of a step, and their shares. An accelerator is waited for
        after each part, so that its work is counted where it belongs.
    """
    before = copy.deepcopy(trainer.state_dict())
    times = {"waiting for data": 0.0, "forward": 0.0, "backward": 0.0, "optimizer": 0.0}
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # or it prints what it does
    source = trainer.loaders["train"].steps(trainer.step, trainer.step + WARM_UP + steps)
    places = [(trainer, "training_step", "forward"), (torch.Tensor, "backward", "backward")]
    with ExitStack() as labels:
        for place in [*places, *((one, "step", "optimizer") for one in trainer.optimizers)]:
            labels.enter_context(_labelled(*place, trainer.device, times))
        for _ in range(WARM_UP):
            trainer.step += 1
            trainer.update([move(batch, trainer.device) for batch in next(source)])
        times.update(dict.fromkeys(times, 0.0))
        with profile(acc_events=True) as recorder:
            begun = perf_counter()
            for batches in trainer.meter.watch(source):
                trainer.step += 1
                trainer.update([move(batch, trainer.device) for batch in batches])
            total = perf_counter() - begun
    trainer.load_state_dict(before)
    if not RANK:
        (trainer.run / "profile").mkdir(exist_ok=True)
        recorder.export_chrome_trace(str(trainer.run / "profile/trace.json"))
    times["waiting for data"] = trainer.meter.waited
    times["rest"] = total - sum(times.values())
    rows = [(part, f"{1e3 * t / steps:.3f}", f"{t / total:.1%}") for part, t in times.items()]
    return format_table([("part of a step", "ms", "share"), *rows])


@contextmanager
def _labelled(
    owner: Any, name: str, label: str, device: torch.device, times: dict[str, float]
) -> Iterator[None]:
    """Within it, the time that a method takes is added up and labelled in the trace."""
    method = getattr(owner, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        begun = perf_counter()
        with record_function(label):
            result = method(*arguments, **options)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
        times[label] += perf_counter() - begun
        return result

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, method)
