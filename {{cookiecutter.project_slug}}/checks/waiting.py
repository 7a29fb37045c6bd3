"""Whether training waits for the loader, and how many workers would keep it fed."""

import copy
import math
import os
import time

import torch

from base.base_trainer import BaseTrainer
from checks.trial import copied, make_step
from checks.verdict import Verdict

SECONDS = 4.0
MEASURED_STEPS = 40
MEASURED_SINGLY = 5
WARNING_FRACTION = 0.5  # of the time is spent waiting
FAILED_FRACTION = 0.75


def check_workers(trainer: BaseTrainer) -> Verdict:
    """Measures the loading of a batch, a step, and the time that steps wait for batches."""
    verdict = Verdict("workers")
    loader = trainer.loaders["train"]
    load_seconds = _time_loading(trainer)
    step_seconds, fraction = _time_training(trainer)
    verdict.figures["data.workers"] = loader.workers
    verdict.figures["loading"] = f"{1e3 * load_seconds:.3g} ms"
    verdict.figures["step"] = f"{1e3 * step_seconds:.3g} ms"
    verdict.figures["waiting"] = f"{fraction:.0%}"
    needed = math.ceil(load_seconds / step_seconds)
    if load_seconds < 0.1 * step_seconds:
        needed = 0
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
    """The seconds in which this process loads a batch."""
    loader = copy.copy(trainer.loaders["train"])
    loader.workers = 0
    end = time.perf_counter() + SECONDS / 3
    fastest = float("inf")
    with copied(trainer):
        started = time.perf_counter()
        for _ in loader.steps(0, MEASURED_SINGLY):
            fastest = min(fastest, time.perf_counter() - started)
            if time.perf_counter() > end:
                break
            started = time.perf_counter()
    return fastest


def _time_training(trainer: BaseTrainer) -> tuple[float, float]:
    """The seconds of a step without loading, and the fraction of the time spent on waiting."""
    step_seconds = 0.0
    waiting_seconds = 0.0
    measured = 0
    loader = trainer.loaders["train"]
    # At first, workers start and fill their queues.
    ignored = 2 * loader.workers + 3
    with copied(trainer) as trial:
        end = time.perf_counter() + SECONDS
        wait_started = time.perf_counter()
        for number, step in enumerate(loader.steps(0, ignored + MEASURED_STEPS)):
            step_started = time.perf_counter()
            make_step(trial, step)
            if trial.device.type != "cpu":
                torch.accelerator.synchronize(trial.device)
            step_ended = time.perf_counter()
            is_over = step_ended > end
            if number >= ignored or is_over:
                measured += 1
                waiting_seconds += step_started - wait_started
                step_seconds += step_ended - step_started
            if is_over:
                break
            wait_started = time.perf_counter()
    total_seconds = step_seconds + waiting_seconds
    return step_seconds / measured, waiting_seconds / total_seconds
