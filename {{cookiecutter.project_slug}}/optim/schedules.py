"""Learning rate schedules: functions of the step alone, so that there is no state to save.

A schedule returns the learning rate of a step after the warm-up, divided by the highest rate of the
parameter group. `scheduler.name` names a function of this file or, as FILE.function, of another
file in optim/. It is called with those of the following arguments that it has as parameters; its
other parameters, which need annotations, are settings.

    progress: from 0 after the warm-up to 1 after the last step.
    step: optimizer steps made before this one.
    warmup_steps: optimizer steps of the warm-up.
    total_steps: optimizer steps of the whole run.
    steps_per_epoch: optimizer steps of an epoch.
"""
# ruff: noqa: D417  the arguments that all schedules share are described above

import math

from config.schema import Count, Fraction, Positive


def constant() -> float:
    """A constant rate."""
    return 1.0


def linear(progress: float, final: Fraction = 0.0) -> float:
    """Linear decay.

    Args:
        final: Rate at the end of the run, as a fraction of the highest.
    """
    return 1 - (1 - final) * progress


def one_cycle(
    step: int,
    total_steps: int,
    rise: Fraction = 0.25,
    initial: Fraction = 0.1,
    final: Fraction = 0.0,
) -> float:
    """Linear rise, then linear decay (Smith and Topin, arXiv:1708.07120).

    Args:
        rise: Length of the rise as a fraction of all steps.
        initial: Rate before the rise, as a fraction of the highest.
        final: Rate at the end of the run, as a fraction of the highest.
    """
    rise_steps = round(total_steps * rise)
    if step < rise_steps:
        return initial + (1 - initial) * (step + 1) / (rise_steps + 1)
    return linear((step - rise_steps) / (total_steps - rise_steps), final)


def cosine(progress: float, final: Fraction = 0.0) -> float:
    """Cosine decay (Loshchilov and Hutter, arXiv:1608.03983).

    Args:
        final: Rate at the end of the run, as a fraction of the highest.
    """
    decay = (1 - math.cos(math.pi * progress)) / 2
    return 1 - (1 - final) * decay


def cosine_restarts(progress: float, final: Fraction = 0.0, cycles: Count = 3) -> float:
    """Cosine decay that starts again several times (Loshchilov and Hutter, arXiv:1608.03983).

    Args:
        final: Rate at the end of each cycle, as a fraction of the highest.
        cycles: Number of cycles, all of the same length.
    """
    return cosine(cycles * progress % 1, final)


def polynomial(progress: float, final: Fraction = 0.0, power: Positive = 2.0) -> float:
    """Polynomial decay.

    Args:
        final: Rate at the end of the run, as a fraction of the highest.
        power: Exponent; 1 is linear.
    """
    return float(final + (1 - final) * (1 - progress) ** power)


def inverse_square_root(step: int, warmup_steps: int) -> float:
    """Decay with the square root of the step (Vaswani et al., arXiv:1706.03762)."""
    return math.sqrt(max(1, warmup_steps) / (step + 1))


def warmup_stable_decay(
    step: int, total_steps: int, decay: Fraction = 0.2, final: Fraction = 0.0
) -> float:
    """A constant rate, then linear decay (Hu et al., arXiv:2404.06395).

    Args:
        decay: Length of the decay as a fraction of all steps.
        final: Rate at the end of the run, as a fraction of the highest.
    """
    decay_steps = round(total_steps * decay)
    first_decay_step = total_steps - decay_steps
    if step < first_decay_step:
        return 1.0
    return linear((step - first_decay_step) / decay_steps, final)


def step(step: int, steps_per_epoch: int, epochs: Count = 10, factor: Positive = 0.1) -> float:
    """The rate is multiplied by `factor` every `epochs` epochs.

    Args:
        epochs: Epochs between two reductions.
        factor: What each reduction multiplies the rate by.
    """
    reductions = step // (epochs * steps_per_epoch)
    return factor**reductions


def multi_step(
    step: int, steps_per_epoch: int, milestones: tuple[Count, ...], factor: Positive = 0.1
) -> float:
    """The rate is multiplied by `factor` after each of the given epochs.

    Args:
        milestones: Numbers of epochs after which the rate is reduced.
        factor: What each reduction multiplies the rate by.
    """
    finished_epochs = step // steps_per_epoch
    reductions = sum(1 for milestone in milestones if finished_epochs >= milestone)
    return factor**reductions


def exponential(step: int, steps_per_epoch: int, factor: Positive = 0.95) -> float:
    """The rate is multiplied by `factor` after each epoch.

    Args:
        factor: What the rate is multiplied by after each epoch.
    """
    finished_epochs = step // steps_per_epoch
    return factor**finished_epochs
