"""The learning rate range test (Smith, 2017), and a trial of the rate in the settings."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.optim import Optimizer

from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from checks.trial import Deadline, copied, loss_of, make_step, require_one_optimizer
from checks.verdict import Skipped, Verdict
from logger.console import progress_bar
from logger.figures import Figure, drawing_style, new_figure, save_figure
from optim.optimizers import needs_closure

RANGE_STEPS = 100
RANGE_SECONDS = 12.0
LOWEST_RATE = 1e-6
HIGHEST_RATE = 10.0
SMOOTHING = 0.8  # weight of the earlier losses in the mean
DIVERGED = 4.0  # multiple of the lowest loss, after which the test ends
SAFETY_FACTOR = 5.0  # between the rate of the lowest loss and the proposal

TRIAL_STEPS = 40
TRIAL_SECONDS = 5.0
WARM_UP_STEPS = 10
LAST_STEPS = 10  # whose mean loss is compared
MIN_PROGRESS = 0.05  # of that with the proposed rate


@dataclass
class RangeTest:
    """The smoothed losses at rising learning rates, and the rates of which these say something.

    Attributes:
        rates: learning rates, ascending.
        losses: the smoothed loss at each.
        proposal: a rate below that of the lowest loss; later, that of the settings if it trains
            better.
    """

    rates: list[float]
    losses: list[float]
    proposal: float


def check_rate(trainer: BaseTrainer, folder: Path) -> Verdict:
    """Proposes a learning rate, draws how it was found, and tries the one in the settings.

    Args:
        trainer: a new trainer.
        folder: where ``rate.png`` is saved.
    """
    verdict = Verdict("rate")
    with copied(trainer) as trial:
        _require_rate(trial)
    with copied(trainer) as trial:
        configured = float(trial.optimizers[0].param_groups[0]["lr"])
        test = run_range_test(trial, configured)
    initial, loss = _try_rate(trainer, configured, configured)
    _, proposed_loss = _try_rate(trainer, configured, test.proposal)
    if loss <= proposed_loss and loss < initial:
        test.proposal = configured
        proposed_loss = loss
    file = folder / "rate.png"
    folder.mkdir(parents=True, exist_ok=True)
    heading = f"{trainer.dataset.title}: learning rate range test"
    save_figure(rate_figure(test, configured, heading), file)
    verdict.figures["optimizer.lr"] = configured
    verdict.figures["proposal"] = test.proposal
    verdict.figures["figure"] = str(file)
    verdict.figures[f"loss after {TRIAL_STEPS} steps"] = f"{initial:.3g} to {loss:.3g}"
    verdict.figures["with the proposal"] = proposed_loss
    _judge(verdict, configured, test.proposal, (initial, loss, proposed_loss))
    return verdict


def _require_rate(trial: BaseTrainer) -> None:
    """Raises Skipped if the loss says little about a learning rate; makes a step."""
    require_one_optimizer(trial)
    (optimizer,) = trial.optimizers
    if needs_closure(optimizer):
        raise Skipped(f"{type(optimizer).__name__} searches along a line, so its rate says little")
    loss_of(make_step(trial, next(trial.loaders["train"].steps(0, 1))))


def run_range_test(trial: BaseTrainer, configured: float) -> RangeTest:
    """Trains with a learning rate that rises by the same factor in each step."""
    lowest = min(LOWEST_RATE, configured / 1000)
    highest = max(HIGHEST_RATE, configured * 10)
    growth = (highest / lowest) ** (1 / (RANGE_STEPS - 1))
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    deadline = Deadline(RANGE_SECONDS)
    factors = _initial_factors(trial.optimizers[0], configured)
    with progress_bar(RANGE_STEPS, "learning rate") as bar:
        for number, step in enumerate(_steps(trial, RANGE_STEPS)):
            rate = lowest * growth**number
            _set_rate(trial.optimizers[0], rate, factors)
            loss = loss_of(make_step(trial, step))
            bar.update()
            if not math.isfinite(loss):
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            rates.append(rate)
            losses.append(mean / (1 - SMOOTHING ** (number + 1)))
            has_diverged = losses[-1] > DIVERGED * min(losses) > 0
            if has_diverged or deadline.is_over():
                break
    if not rates:
        raise Skipped("the loss is not finite in the first step")
    best = losses.index(min(losses))
    return RangeTest(rates, losses, _round(rates[best] / SAFETY_FACTOR))


def _round(rate: float) -> float:
    """A rate with one significant digit."""
    return float(f"{rate:.0e}")


def _steps(trial: BaseTrainer, count: int) -> Iterator[Step]:
    first = trial.progress.step
    return trial.loaders["train"].steps(first, first + count)


def _initial_factors(optimizer: Optimizer, configured: float) -> list[float]:
    """The rate of each parameter group relative to the first one."""
    return [float(group["lr"]) / configured for group in optimizer.param_groups]


def _set_rate(optimizer: Optimizer, rate: float, factors: Sequence[float]) -> None:
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] = rate * factor


def _try_rate(trainer: BaseTrainer, configured: float, rate: float) -> tuple[float, float]:
    """The first loss, and the mean loss of the last steps, of a short training at a rate."""
    losses: list[float] = []
    deadline = Deadline(TRIAL_SECONDS)
    with copied(trainer) as trial:
        (optimizer,) = trial.optimizers
        factors = _initial_factors(optimizer, configured)
        for number, step in enumerate(_steps(trial, TRIAL_STEPS), start=1):
            _set_rate(optimizer, rate * min(1.0, number / WARM_UP_STEPS), factors)
            losses.append(loss_of(make_step(trial, step)))
            if deadline.is_over() or not math.isfinite(losses[-1]):
                break
    last = losses[-LAST_STEPS:]
    return losses[0], sum(last) / len(last)


def _judge(
    verdict: Verdict, configured: float, proposal: float, losses: tuple[float, float, float]
) -> None:
    """Compares the losses: the first one, with the rate of the settings, with the proposal."""
    initial, loss, proposed_loss = losses
    advice = f"optimizer.lr={proposal:g}"
    gain = initial - loss
    proposed_gain = initial - proposed_loss
    diverges = not math.isfinite(loss) or gain < 0
    if configured > proposal and diverges and (proposed_gain > 0 or not math.isfinite(loss)):
        verdict.failures.append(
            f"optimizer.lr = {configured:g} is too high: the loss rises from {initial:.3g} to "
            f"{loss:.3g}; use {advice}"
        )
    elif configured < proposal and gain < MIN_PROGRESS * proposed_gain:
        verdict.warnings.append(
            f"optimizer.lr = {configured:g} is low: the loss hardly falls; try {advice}"
        )
    elif configured > proposal and gain < 0.3 * proposed_gain:
        verdict.warnings.append(f"optimizer.lr = {configured:g} is high; try {advice}")


@drawing_style()
def rate_figure(test: RangeTest, configured: float, heading: str) -> Figure:
    """Draws the loss over the learning rate, with the rate of the settings and the proposal."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot(title=heading, xlabel="learning rate", ylabel="smoothed loss")
    axes.set_xscale("log")
    axes.plot(test.rates, test.losses)
    lowest = min(test.losses)
    highest = max(test.losses[0], lowest)
    margin = 0.1 * (highest - lowest) or 1.0
    axes.set_ylim(lowest - margin, highest + 3 * margin)
    axes.axvline(configured, color="C1", label=f"optimizer.lr = {configured:g}")
    axes.axvline(test.proposal, color="C2", linestyle="--", label=f"proposal {test.proposal:g}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
