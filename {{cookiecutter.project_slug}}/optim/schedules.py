"""Learning rate schedules: functions of the step alone, so that there is no state to save.

A schedule returns the learning rate of a step, divided by the highest rate of the parameter group.
`scheduler.name` names a function of this file or, as FILE.function, of another file in optim/. Its
parameters other than `step`, `total_steps` and `steps_per_epoch`, each of which it may have or not,
are settings. They need annotations.
"""

import math

from config.schema import Count, Fraction, Positive


def constant(step: int, total_steps: int, warmup: Fraction = 0.0, start: Fraction = 0.0) -> float:
    """A constant rate.

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    return 1.0


def linear(
    step: int,
    total_steps: int,
    warmup: Fraction = 0.0,
    start: Fraction = 0.0,
    final: Fraction = 0.0,
) -> float:
    """Linear decay.

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        final: Rate at the end of the run, as a fraction of the highest.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    return 1 - (1 - final) * _progress(step, total_steps, warmup)


def one_cycle(
    step: int,
    total_steps: int,
    warmup: Fraction = 0.25,
    start: Fraction = 0.1,
    final: Fraction = 0.0,
) -> float:
    """Long linear warm-up, then linear decay (Smith and Topin, arXiv:1708.07120).

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        final: Rate at the end of the run, as a fraction of the highest.
    """
    return linear(step, total_steps, warmup, start, final)


def cosine(
    step: int,
    total_steps: int,
    warmup: Fraction = 0.0,
    start: Fraction = 0.0,
    final: Fraction = 0.0,
) -> float:
    """Cosine decay (Loshchilov and Hutter, arXiv:1608.03983).

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        final: Rate at the end of the run, as a fraction of the highest.
    """
    return cosine_restarts(step, total_steps, warmup, start, final, cycles=1)


def cosine_restarts(
    step: int,
    total_steps: int,
    warmup: Fraction = 0.0,
    start: Fraction = 0.0,
    final: Fraction = 0.0,
    cycles: Count = 3,
) -> float:
    """Cosine decay that starts again several times (Loshchilov and Hutter, arXiv:1608.03983).

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        final: Rate at the end of each cycle, as a fraction of the highest.
        cycles: Number of cycles, all of the same length.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    cycle_progress = cycles * _progress(step, total_steps, warmup) % 1
    decay = (1 - math.cos(math.pi * cycle_progress)) / 2
    return 1 - (1 - final) * decay


def polynomial(
    step: int,
    total_steps: int,
    warmup: Fraction = 0.0,
    start: Fraction = 0.0,
    final: Fraction = 0.0,
    power: Positive = 2.0,
) -> float:
    """Polynomial decay.

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        final: Rate at the end of the run, as a fraction of the highest.
        power: Exponent; 1 is linear.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    remaining = 1 - _progress(step, total_steps, warmup)
    return float(final + (1 - final) * remaining**power)


def inverse_square_root(
    step: int, total_steps: int, warmup: Fraction = 0.1, start: Fraction = 0.0
) -> float:
    """Decay with the square root of the step (Vaswani et al., arXiv:1706.03762).

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    warmup_steps = max(1, _warmup_steps(total_steps, warmup))
    return math.sqrt(warmup_steps / max(warmup_steps, step + 1))


def warmup_stable_decay(
    step: int,
    total_steps: int,
    warmup: Fraction = 0.05,
    start: Fraction = 0.0,
    final: Fraction = 0.0,
    decay: Fraction = 0.2,
) -> float:
    """A constant rate between warm-up and linear decay (Hu et al., arXiv:2404.06395).

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        final: Rate at the end of the run, as a fraction of the highest.
        decay: Length of the decay as a fraction of all steps.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    return linear(step, total_steps, warmup=max(0.0, 1 - decay), start=1.0, final=final)


def step(
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    warmup: Fraction = 0.0,
    start: Fraction = 0.0,
    epochs: Count = 10,
    factor: Positive = 0.1,
) -> float:
    """The rate is multiplied by `factor` every `epochs` epochs.

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of an epoch.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        epochs: Epochs between two reductions.
        factor: What each reduction multiplies the rate by.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    reductions = step // (epochs * steps_per_epoch)
    return factor**reductions


def multi_step(
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    milestones: tuple[Count, ...],
    warmup: Fraction = 0.0,
    start: Fraction = 0.0,
    factor: Positive = 0.1,
) -> float:
    """The rate is multiplied by `factor` after each of the given epochs.

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of an epoch.
        milestones: Numbers of epochs after which the rate is reduced.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        factor: What each reduction multiplies the rate by.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    finished_epochs = step // steps_per_epoch
    reductions = sum(1 for milestone in milestones if finished_epochs >= milestone)
    return factor**reductions


def exponential(
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    warmup: Fraction = 0.0,
    start: Fraction = 0.0,
    factor: Positive = 0.95,
) -> float:
    """The rate is multiplied by `factor` after each epoch.

    Args:
        step: Optimizer steps made before this one.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of an epoch.
        warmup: Length of the linear warm-up as a fraction of all steps.
        start: Rate before the warm-up, as a fraction of the highest.
        factor: What the rate is multiplied by after each epoch.
    """
    if _is_warm_up(step, total_steps, warmup):
        return _warm_up(step, total_steps, warmup, start)
    finished_epochs = step // steps_per_epoch
    return factor**finished_epochs


def _warmup_steps(total_steps: int, warmup: float) -> int:
    return round(total_steps * warmup)


def _is_warm_up(step: int, total_steps: int, warmup: float) -> bool:
    return step < _warmup_steps(total_steps, warmup)


def _warm_up(step: int, total_steps: int, warmup: float, start: float) -> float:
    progress = (step + 1) / (_warmup_steps(total_steps, warmup) + 1)
    return start + (1 - start) * progress


def _progress(step: int, total_steps: int, warmup: float) -> float:
    """The progress of the decay, from 0 after the warm-up to 1 after the last step."""
    warmup_steps = _warmup_steps(total_steps, warmup)
    return (step - warmup_steps) / (total_steps - warmup_steps)
