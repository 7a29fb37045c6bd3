"""Whether one batch can be learned; if not, which gradient is the reason."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from checks.initial_loss import uses_cross_entropy
from checks.outputs import Score, labels_of, logits_of, score_of
from checks.trial import (
    Deadline,
    copied,
    disable_dropout,
    loss_of,
    make_step,
    require_one_optimizer,
    single_batch_step,
    training_batch,
    use_adam,
)
from checks.verdict import Skipped, Verdict, list_some
from config.schema import NO_CLASS

MAX_SAMPLES = 32
STEPS = 300
RATES = (1e-3, 1e-2)
SECONDS_PER_RATE = 4.0
STEPS_BETWEEN_TESTS = 10
LEARNED_FRACTION = 0.1  # of the initial loss above the lowest one
MIN_SCORE = {"accuracy": 1.0, "correlation": 0.5}  # of a batch that is learned
NO_CHANGE = 0.99  # of the initial loss
LARGE_GRADIENT = 1e4
FEW_PARAMETERS = 1000
LOWEST_IS_ZERO = ("mse", "l1", "huber", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")


@dataclass
class Attempt:
    """What training on a single batch has led to.

    Attributes:
        lowest_loss: the lowest possible loss; None if it is unknown.
        steps: the number of steps.
        initial_loss: the loss of the first step.
        loss: the loss of the last step that was tested.
        score: after that step; None if the targets are neither classes nor numbers.
        gradients: the norm of the last gradient of each trained parameter.
        was_stopped: whether the time was over before all steps were made.
    """

    lowest_loss: float | None
    steps: int = 0
    initial_loss: float = 0.0
    loss: float = 0.0
    score: Score | None = None
    gradients: dict[str, float] = field(default_factory=dict)
    was_stopped: bool = False

    def is_low(self) -> bool:
        """Whether the loss has fallen to near its lowest value, or far if that is unknown."""
        distance = abs(self.initial_loss)
        if self.lowest_loss is not None:
            distance = self.initial_loss - self.lowest_loss
        return self.initial_loss - self.loss > (1 - LEARNED_FRACTION) * distance

    def fits(self) -> bool:
        """Whether the outputs fit the targets of the batch; also if they cannot be compared."""
        return self.score is None or self.score.value >= MIN_SCORE[self.score.name]

    def has_learned(self) -> bool:
        """Whether the batch is learned, as far as that can be told."""
        accuracy_decides = self.lowest_loss is None and self.is_classified()
        return self.fits() and (accuracy_decides or self.is_low())

    def is_classified(self) -> bool:
        """Whether all samples are classified correctly."""
        return self.score is not None and self.score.name == "accuracy" and self.fits()


def check_overfit(trainer: BaseTrainer) -> Verdict:
    """Trains on one batch without dropout until it is learned, or the time is over."""
    verdict = Verdict("overfit")
    attempts = []
    for rate in RATES:
        with copied(trainer) as trial:
            require_one_optimizer(trial)
            attempts.append(train_on_one_batch(trial, rate))
        if attempts[-1].has_learned():
            break
    best = min(attempts, key=_finite_loss)
    if attempts[-1].has_learned():
        best = attempts[-1]
    verdict.figures["loss"] = f"{best.initial_loss:.3g} to {best.loss:.3g}"
    if best.score is not None:
        verdict.figures[best.score.name] = best.score.value
    verdict.figures["steps"] = best.steps
    if not best.has_learned():
        _explain(verdict, trainer, best)
    return verdict


def _finite_loss(attempt: Attempt) -> float:
    if math.isfinite(attempt.loss):
        return attempt.loss
    return math.inf


def train_on_one_batch(trial: BaseTrainer, rate: float) -> Attempt:
    """Makes steps of Adam on the same batch."""
    # A network of few parameters cannot learn many samples.
    count = min(MAX_SAMPLES, trial.loaders["train"].source.batch_size)
    count = min(count, max(2, trial.model.count_parameters() // 2))
    batch = training_batch(trial, count)
    step = single_batch_step(batch, count)
    disable_dropout(trial.model)
    use_adam(trial, rate)
    attempt = Attempt(find_lowest_loss(trial, batch))
    record_gradients(trial, attempt.gradients)
    deadline = Deadline(SECONDS_PER_RATE)
    while attempt.steps < STEPS and not attempt.was_stopped:
        outputs = make_step(trial, step)
        attempt.steps += 1
        attempt.was_stopped = deadline.is_over()
        if attempt.steps == 1:
            attempt.initial_loss = loss_of(outputs)
        if attempt.steps % STEPS_BETWEEN_TESTS == 0 or attempt.steps == 1 or attempt.was_stopped:
            attempt.loss = loss_of(outputs)
            attempt.score = _score(trial, batch)
            if attempt.has_learned():
                break
    return attempt


def _score(trial: BaseTrainer, batch: Batch) -> Score | None:
    """In training mode, because running statistics are not those of the batch yet."""
    try:
        return score_of(trial, batch, training=True)
    except Skipped:
        return None


def find_lowest_loss(trial: BaseTrainer, batch: Batch) -> float | None:
    """The lowest loss that outputs can have; None if it is unknown."""
    name = trial.settings.loss.name
    if name == NO_CLASS:
        name = trial.default_loss
    if name in LOWEST_IS_ZERO:
        return 0.0
    labels = labels_of(trial, batch)
    if labels is None or not uses_cross_entropy(trial):
        return None
    try:
        logits = logits_of(trial, batch)
    except Skipped:
        return None
    if logits is None:
        return None
    smoothing = float(trial.settings.loss.arguments.get("label_smoothing", 0.0))
    classes = logits.shape[1]
    true_probabilities: Tensor = batch["target"]
    if not true_probabilities.is_floating_point():
        true_probabilities = functional.one_hot(labels.clamp(min=0), classes)
    probabilities = true_probabilities * (1 - smoothing) + smoothing / classes
    best_outputs: Tensor = probabilities.clamp(min=1e-6).log()
    return trial.loss(best_outputs, batch["target"]).item()


def record_gradients(trial: BaseTrainer, norms: dict[str, float]) -> None:
    """Records the norm of each gradient before each step of the optimizers."""
    parameters = dict(trial.model.named_parameters())

    def record(*_: object) -> None:
        for name, parameter in parameters.items():
            if not parameter.requires_grad:
                continue
            norms[name] = 0.0
            if parameter.grad is not None:
                norms[name] = float(torch.linalg.vector_norm(parameter.grad.detach()))

    for optimizer in trial.optimizers:
        optimizer.register_step_pre_hook(record)


# Why a batch was not learned


def _explain(verdict: Verdict, trainer: BaseTrainer, attempt: Attempt) -> None:
    if attempt.is_low() and not attempt.fits():
        verdict.failures.append(_explain_low_loss(attempt))
        return
    if attempt.is_classified() and not attempt.was_stopped:
        verdict.failures.append(
            "all samples of a batch are classified correctly, but its loss stays at "
            f"{attempt.loss:.3g}; is there a softmax before the cross entropy?"
        )
        return
    is_known = attempt.lowest_loss is not None or attempt.score is not None
    has_fallen = attempt.loss < NO_CHANGE * attempt.initial_loss or attempt.initial_loss <= 0
    gradients = _explain_gradients(attempt)
    may_learn = has_fallen and gradients == ""
    if may_learn and not is_known:
        verdict.figures["note"] = "the lowest possible loss is unknown"
        return
    message = f"one batch cannot be learned in {attempt.steps} steps: the loss goes from "
    message += f"{attempt.initial_loss:.4g} to {attempt.loss:.4g}"
    message += gradients
    if attempt.loss > attempt.initial_loss:
        message += "; does backward get the loss with a reversed sign (gradient ascent)?"
    elif gradients == "":
        message += "; do inputs and targets belong together, and does forward use the inputs?"
    overrides_update = type(trainer).update is not BaseTrainer.update
    is_small = trainer.model.count_parameters() < FEW_PARAMETERS
    was_slow = attempt.was_stopped and gradients == ""
    if was_slow or (may_learn and (overrides_update or is_small)):
        verdict.warnings.append(message)
    else:
        verdict.failures.append(message)


def _explain_low_loss(attempt: Attempt) -> str:
    """Why outputs may not fit the targets although the loss is low."""
    assert attempt.score is not None
    message = f"the loss of a batch falls to {attempt.loss:.3g}, but the {attempt.score.name} on "
    message += f"it is {attempt.score.value:.2f}; "
    if attempt.loss < 0:
        message += "is the sign of the loss reversed (gradient ascent)?"
    else:
        message += "does training_step compare outputs with the targets of other samples?"
    return message


def _explain_gradients(attempt: Attempt) -> str:
    """Which gradients are zero or explode; empty if there are none."""
    zero = []
    exploding = []
    for name, norm in attempt.gradients.items():
        if norm == 0:
            zero.append(name)
        elif not norm < LARGE_GRADIENT:
            exploding.append(name)
    text = ""
    if zero:
        text += f"; the gradient is zero of {list_some(zero)}"
    if exploding:
        text += f"; the gradient explodes of {list_some(exploding)}"
    return text
