"""Whether training waits for the loader, and how many workers would keep it fed."""

import copy
import math
import os
import time

import torch

from base.base_trainer import BaseTrainer
from checks.trial import copied, make_step
from checks.verdict import Verdict

SECONDS = 3.0
MEASURED_STEPS = 40
MEASURED_SINGLY = 5
WARNING_FRACTION = 0.5  # of the time is spent waiting
FAILED_FRACTION = 0.75
NEGLIGIBLE_LOADING = 0.1  # relative to a step


def check_workers(trainer: BaseTrainer) -> Verdict:
    """Measures the loading of a batch, a step, and the time that steps wait for batches."""
    verdict = Verdict("workers")
    load_seconds = _time_loading(trainer)
    waiting, computing = _time_steps(trainer)
    step_seconds = sum(computing) / len(computing)
    fraction = sum(waiting) / (sum(waiting) + sum(computing))
    needed = 0
    if load_seconds > NEGLIGIBLE_LOADING * step_seconds:
        needed = math.ceil(load_seconds / step_seconds)
    verdict.figures["data.workers"] = trainer.loaders["train"].workers
    verdict.figures["loading"] = f"{1e3 * load_seconds:.3g} ms"
    verdict.figures["step"] = f"{1e3 * step_seconds:.3g} ms"
    verdict.figures["waiting"] = f"{fraction:.0%}"
    verdict.figures["workers that keep up"] = needed
    judge_waiting(verdict, trainer, needed, fraction)
    return verdict


def judge_waiting(verdict: Verdict, trainer: BaseTrainer, needed: int, fraction: float) -> None:
    """Adds a warning or a failure if training waits too long.

    Args:
        verdict: what it is added to.
        trainer: its training loader has the workers in the settings.
        needed: the number of workers that would keep up.
        fraction: of the time that training waits.
    """
    if fraction <= WARNING_FRACTION:
        return
    workers = trainer.loaders["train"].workers
    cores = os.cpu_count() or 1
    message = f"the loader is the bottleneck: training waits for it {fraction:.0%} of the time; "
    if workers < min(needed, cores) and not trainer.dataset.saved_attributes:
        message += f"use data.workers={min(needed, cores)}"
    else:
        message += "read and transform whole batches in __getitems__, or prepare the data once"
    if fraction > FAILED_FRACTION:
        verdict.failures.append(message)
    else:
        verdict.warnings.append(message)


def _time_loading(trainer: BaseTrainer) -> float:
    """The shortest time, in seconds, in which this process loads a batch."""
    loader = copy.copy(trainer.loaders["train"])
    loader.workers = 0
    end = time.perf_counter() + SECONDS / 3
    fastest = math.inf
    with copied(trainer):
        started = time.perf_counter()
        for _ in loader.steps(0, MEASURED_SINGLY):
            fastest = min(fastest, time.perf_counter() - started)
            if time.perf_counter() > end:
                break
            started = time.perf_counter()
    return fastest


def _time_steps(trainer: BaseTrainer) -> tuple[list[float], list[float]]:
    """For each step, the seconds that it waits for its batch, and those that it computes."""
    waiting: list[float] = []
    computing: list[float] = []
    loader = trainer.loaders["train"]
    ignored = 2 * loader.workers + 3  # at first, workers start and fill their queues
    with copied(trainer) as trial:
        end = time.perf_counter() + SECONDS
        ready = time.perf_counter()
        for step in loader.steps(0, ignored + MEASURED_STEPS):
            loaded = time.perf_counter()
            make_step(trial, step)
            if trial.device.type != "cpu":
                torch.accelerator.synchronize(trial.device)
            finished = time.perf_counter()
            waiting.append(loaded - ready)
            computing.append(finished - loaded)
            if finished > end:
                break
            ready = finished
    first = min(ignored, len(waiting) - 1)
    return waiting[first:], computing[first:]
