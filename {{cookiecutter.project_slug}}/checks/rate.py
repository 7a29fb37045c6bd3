"""The learning rate range test (Smith, 2017), and a trial of the rate in the settings."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.optim import Optimizer

from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from checks.trial import copied, loss_of, make_step, require_one_optimizer
from checks.verdict import Skipped, Verdict
from logger.console import progress_bar
from logger.figures import Figure, drawing_style, new_figure, plain_number, save_figure
from optim.optimizers import needs_closure

RANGE_STEPS = 80
MIN_RANGE_STEPS = 30  # if steps are slow
RANGE_SECONDS = 7.0
LOWEST_RATE = 1e-5
HIGHEST_RATE = 10.0
SMOOTHING = 0.8  # weight of the earlier losses in the mean
DIVERGED = 4.0  # multiple of the lowest loss, after which the test ends
SAFETY_FACTOR = 5.0  # between the rate of the lowest loss and the proposal

TRIAL_STEPS = 40
MIN_TRIAL_STEPS = 20
TRIAL_SECONDS = 5.0
MAX_STEP_SECONDS = 1.0  # with which the fewest steps still end within a minute
# By how much the loss falls with the rate in the settings, relative to the proposed one.
FAILED_GAIN = 0.15
SMALL_GAIN = 0.3
LOW_RATE_GAIN = 0.05
LARGE_RISE = 0.5  # of the loss, relative to the initial one
HUGE_RISE = 10.0
TINY_RATE = 1e-3  # relative to the one in the settings


@dataclass
class RangeTest:
    """The losses at rising learning rates.

    Attributes:
        rates: learning rates, ascending.
        losses: the smoothed loss at each.
    """

    rates: list[float]
    losses: list[float]

    def propose(self) -> float:
        """A rate safely below that of the lowest loss, with one significant digit."""
        best = self.losses.index(min(self.losses))
        return float(f"{self.rates[best] / SAFETY_FACTOR:.0e}")


@dataclass
class ShortTraining:
    """The losses of a short training.

    Attributes:
        rate: its learning rate.
        steps: the number of steps.
        initial_loss: the loss of the first step.
        loss: the mean loss of the last quarter of the steps.
    """

    rate: float
    steps: int
    initial_loss: float
    loss: float

    @property
    def gain(self) -> float:
        """By how much the loss has fallen."""
        return self.initial_loss - self.loss


def check_rate(trainer: BaseTrainer, folder: Path) -> Verdict:
    """Proposes a learning rate, draws how it was found, and tries the one in the settings.

    Args:
        trainer: a new trainer.
        folder: where ``rate.png`` is saved.
    """
    verdict = Verdict("rate")
    with copied(trainer) as trial:
        _require_rate(trial)
        step_seconds = _time_step(trial)
    range_steps = _count_steps(RANGE_SECONDS, step_seconds, MIN_RANGE_STEPS, RANGE_STEPS)
    trial_steps = _count_steps(TRIAL_SECONDS, step_seconds, MIN_TRIAL_STEPS, TRIAL_STEPS)
    with copied(trainer) as trial:
        rate = float(trial.optimizers[0].param_groups[0]["lr"])
        test = run_range_test(trial, rate, range_steps)
    configured = _train_briefly(trainer, rate, trial_steps)
    proposed = _train_briefly(trainer, test.propose(), trial_steps)
    if configured.gain > 0 and not proposed.loss < configured.loss:
        proposed = configured  # the test has found no better rate
    file = folder / "rate.png"
    folder.mkdir(parents=True, exist_ok=True)
    heading = f"{trainer.dataset.title}: learning rate range test"
    save_figure(rate_figure(test, rate, proposed.rate, heading), file)
    verdict.figures["optimizer.lr"] = rate
    verdict.figures["proposal"] = proposed.rate
    verdict.figures["figure"] = str(file)
    losses = f"{configured.initial_loss:.3g} to {configured.loss:.3g}"
    verdict.figures[f"loss after {trial_steps} steps"] = losses
    verdict.figures["with the proposal"] = proposed.loss
    judge_rate(verdict, configured, proposed)
    return verdict


def _require_rate(trial: BaseTrainer) -> None:
    """Raises Skipped if the loss says little about a learning rate; makes a step."""
    require_one_optimizer(trial)
    (optimizer,) = trial.optimizers
    if needs_closure(optimizer):
        raise Skipped(f"{type(optimizer).__name__} searches along a line, so its rate says little")
    (step,) = _steps(trial, 1)
    loss_of(make_step(trial, step))


def _time_step(trial: BaseTrainer) -> float:
    """The seconds of a step.

    Raises:
        Skipped: if steps are so slow that the tests would take minutes.
    """
    (step,) = _steps(trial, 1)
    started = time.perf_counter()
    computing_started = time.process_time()
    loss_of(make_step(trial, step))
    elapsed = time.perf_counter() - started
    computed = time.process_time() - computing_started
    seconds = elapsed
    if trial.device.type == "cpu":
        seconds = min(elapsed, computed)  # other programs may use the processor
    if seconds > MAX_STEP_SECONDS:
        raise Skipped(f"a step takes {seconds:.2g} s; use a faster device or a smaller batch")
    return seconds


def _count_steps(seconds: float, step_seconds: float, lowest: int, highest: int) -> int:
    """The number of steps that fit a time, within limits."""
    return min(max(int(seconds / step_seconds), lowest), highest)


def run_range_test(trial: BaseTrainer, configured: float, steps: int) -> RangeTest:
    """Trains with a learning rate that rises by the same factor in each step.

    Args:
        trial: the copy of a trainer.
        configured: the rate in the settings.
        steps: the number of steps, unless the loss diverges before.
    """
    lowest = min(LOWEST_RATE, configured / 100)
    highest = max(HIGHEST_RATE, configured * 10)
    growth = (highest / lowest) ** (1 / (steps - 1))
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    factors = _rate_factors(trial.optimizers[0])
    with progress_bar(steps, "learning rate") as bar:
        for number, step in enumerate(_steps(trial, steps)):
            rate = lowest * growth**number
            _set_rate(trial.optimizers[0], rate, factors)
            loss = loss_of(make_step(trial, step))
            bar.update()
            if not math.isfinite(loss):
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            weight = 1 - SMOOTHING ** (number + 1)  # of the losses so far in this mean
            rates.append(rate)
            losses.append(mean / weight)
            has_diverged = losses[-1] > DIVERGED * min(losses) > 0
            if has_diverged:
                break
    if not rates:
        raise Skipped("the loss is not finite in the first step")
    return RangeTest(rates, losses)


def _steps(trial: BaseTrainer, count: int) -> Iterator[Step]:
    first = trial.progress.step
    return trial.loaders["train"].steps(first, first + count)


def _rate_factors(optimizer: Optimizer) -> list[float]:
    """The rate of each parameter group relative to the first one."""
    first_rate = float(optimizer.param_groups[0]["lr"])
    return [float(group["lr"]) / first_rate for group in optimizer.param_groups]


def _set_rate(optimizer: Optimizer, rate: float, factors: Sequence[float]) -> None:
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] = rate * factor


def _train_briefly(trainer: BaseTrainer, rate: float, steps: int) -> ShortTraining:
    """Trains a copy at a learning rate, after a warm-up of a quarter of the steps."""
    losses: list[float] = []
    with copied(trainer) as trial:
        (optimizer,) = trial.optimizers
        factors = _rate_factors(optimizer)
        for number, step in enumerate(_steps(trial, steps), start=1):
            warm_up_factor = min(1.0, 4 * number / steps)
            _set_rate(optimizer, rate * warm_up_factor, factors)
            losses.append(loss_of(make_step(trial, step)))
            if not math.isfinite(losses[-1]):
                break
    quarter = math.ceil(steps / 4)
    last = losses[-quarter:]
    return ShortTraining(rate, steps, losses[0], sum(last) / len(last))


def judge_rate(verdict: Verdict, configured: ShortTraining, proposed: ShortTraining) -> None:
    """Compares the rate in the settings with the proposed one."""
    advice = f"optimizer.lr={proposed.rate:g}"
    losses = f"the loss goes from {configured.initial_loss:.3g} to {configured.loss:.3g}"
    is_above = configured.rate > proposed.rate
    gain = configured.gain
    relative_rise = -gain / max(abs(configured.initial_loss), 1e-12)
    # After few steps, the loss may still be higher than at first, unless by far.
    is_reliable = configured.steps == TRIAL_STEPS or relative_rise > HUGE_RISE
    proposal_is_better = proposed.gain > 0 and gain < FAILED_GAIN * proposed.gain
    diverges = not math.isfinite(configured.loss)
    if diverges or (is_above and is_reliable and proposal_is_better):
        message = f"optimizer.lr = {configured.rate:g} is too high: {losses}"
        if math.isfinite(proposed.loss):
            message += f", but to {proposed.loss:.3g} with {advice}; use it"
        else:
            message += f", and to {proposed.loss:.3g} with {advice}"
        if proposed.rate < TINY_RATE * configured.rate:
            message += ", or look for a reversed sign of the loss or of the steps (gradient ascent)"
        verdict.failures.append(message)
    elif is_reliable and relative_rise > LARGE_RISE and not proposed.gain > 0:
        verdict.failures.append(
            f"{losses}, and does not fall with {advice} either; is the sign of the loss or of the "
            "steps reversed (gradient ascent)?"
        )
    elif is_above and gain < SMALL_GAIN * proposed.gain:
        verdict.warnings.append(f"optimizer.lr = {configured.rate:g} is high; try {advice}")
    elif not is_above and gain < LOW_RATE_GAIN * proposed.gain:
        verdict.warnings.append(
            f"optimizer.lr = {configured.rate:g} is low: the loss hardly falls; try {advice}"
        )


@drawing_style()
def rate_figure(test: RangeTest, configured: float, proposal: float, heading: str) -> Figure:
    """Draws the loss over the learning rate.

    Args:
        test: the rates and losses.
        configured: the rate in the settings.
        proposal: the proposed one.
        heading: title of the figure.
    """
    figure = new_figure(6.5, 4.2, heading)
    axes = figure.add_subplot(xlabel="learning rate", ylabel="loss (smoothed)", xscale="log")
    axes.plot(test.rates, test.losses)
    lowest = min(test.losses)
    highest = max(test.losses[0], lowest)
    margin = 0.1 * (highest - lowest) or 1.0
    axes.set_ylim(lowest - margin, highest + 3 * margin)
    axes.axvline(configured, color="C1", label=f"optimizer.lr = {configured:g}")
    axes.axvline(proposal, color="C2", linestyle="--", label=f"proposal: {proposal:g}")
    axes.xaxis.set_major_formatter(plain_number)
    axes.legend()
    return figure
