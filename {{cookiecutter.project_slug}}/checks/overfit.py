"""Whether one batch can be learned; if not, which gradient is the reason."""

import torch
from torch import Tensor
from torch.nn import functional

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from checks.initial_loss import uses_cross_entropy
from checks.trial import (
    Deadline,
    accuracy_of,
    copied,
    disable_dropout,
    labels_of,
    logits_of,
    loss_of,
    make_step,
    require_one_optimizer,
    single_batch_step,
    training_batch,
    use_adam,
)
from checks.verdict import Skipped, Verdict, list_some

MAX_SAMPLES = 32
STEPS = 300
RATES = (1e-3, 1e-2)
SECONDS_PER_RATE = 5.0
STEPS_BETWEEN_TESTS = 10
LEARNED_FRACTION = 0.1  # of the initial loss above its floor
NO_CHANGE = 0.99  # of the initial loss
LARGE_GRADIENT = 1e4
FEW_PARAMETERS = 1000
KNOWN_FLOOR = ("mse", "l1", "huber", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")


class Attempt:
    """What training on a single batch at one learning rate has led to.

    Attributes:
        rate: the learning rate of Adam.
        steps: the number of steps.
        initial: the loss of the first step.
        loss: the loss of the last one.
        floor: the lowest possible loss; None if it is unknown.
        accuracy: after the last step; None if there are no classes.
        gradients: the norm of the last gradient of each trained parameter.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.steps = 0
        self.initial = 0.0
        self.loss = 0.0
        self.floor: float | None = None
        self.accuracy: float | None = None
        self.gradients: dict[str, float] = {}

    def is_low(self) -> bool:
        """Whether the loss has fallen to near its floor; 0 stands for an unknown one."""
        floor = self.floor or 0.0
        return self.loss - floor < LEARNED_FRACTION * (self.initial - floor)

    def has_learned(self) -> bool:
        """Whether the batch is learned, as far as that can be told."""
        if self.accuracy is None:
            return self.is_low()
        if self.floor is None:
            return self.accuracy == 1
        return self.accuracy == 1 and self.is_low()


def check_overfit(trainer: BaseTrainer) -> Verdict:
    """Trains on one batch without dropout until it is learned, or the time is over."""
    verdict = Verdict("overfit")
    attempts = []
    for rate in RATES:
        with copied(trainer) as trial:
            require_one_optimizer(trial)
            attempt = train_on_one_batch(trial, rate)
        attempts.append(attempt)
        if attempt.has_learned():
            break
    best = min(attempts, key=lambda attempt: attempt.loss)
    if attempts[-1].has_learned():
        best = attempts[-1]
    verdict.figures["loss"] = f"{best.initial:.3g} to {best.loss:.3g}"
    if best.accuracy is not None:
        verdict.figures["accuracy"] = best.accuracy
    verdict.figures["steps"] = best.steps
    if not best.has_learned():
        _explain(verdict, trainer, best)
    return verdict


def train_on_one_batch(trial: BaseTrainer, rate: float) -> Attempt:
    """Steps of Adam on the same batch."""
    # A network of few parameters cannot learn many samples.
    count = min(MAX_SAMPLES, trial.loaders["train"].source.batch_size)
    count = min(count, max(2, trial.model.count_parameters() // 2))
    batch = training_batch(trial, count)
    step = single_batch_step(batch, count)
    disable_dropout(trial.model)
    use_adam(trial, rate)
    attempt = Attempt(rate)
    attempt.floor = find_floor(trial, batch)
    record_gradients(trial, attempt.gradients)
    deadline = Deadline(SECONDS_PER_RATE)
    while attempt.steps < STEPS and not deadline.is_over():
        outputs = make_step(trial, step)
        attempt.steps += 1
        if attempt.steps == 1:
            attempt.initial = loss_of(outputs)
        if attempt.steps % STEPS_BETWEEN_TESTS == 0 or attempt.steps == 1:
            attempt.loss = loss_of(outputs)
            attempt.accuracy = _accuracy(trial, batch)
            if attempt.has_learned():
                break
    return attempt


def _accuracy(trial: BaseTrainer, batch: Batch) -> float | None:
    """In training mode, because running statistics are not those of the batch yet."""
    try:
        return accuracy_of(trial, batch, training=True)
    except Skipped:
        return None


def find_floor(trial: BaseTrainer, batch: Batch) -> float | None:
    """The lowest loss that outputs can have; None if it is unknown."""
    name = trial.settings.loss.name
    if name in KNOWN_FLOOR:
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
    best = functional.one_hot(labels.clamp(min=0), classes) * (1 - smoothing) + smoothing / classes
    outputs: Tensor = best.clamp(min=1e-6).log()
    return trial.loss(outputs, batch["target"]).item()


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


def _explain(verdict: Verdict, trainer: BaseTrainer, attempt: Attempt) -> None:
    """Says why a batch was not learned: the gradients that are zero, or explode."""
    zero = [name for name, norm in attempt.gradients.items() if norm == 0]
    exploding = [name for name, norm in attempt.gradients.items() if not norm < LARGE_GRADIENT]
    if attempt.accuracy == 1 and attempt.floor is not None:
        message = "all samples of a batch are classified correctly, but the loss stays at "
        message += f"{attempt.loss:.3g}; is there a softmax before the cross entropy?"
        verdict.failures.append(message)
        return
    if attempt.is_low() and attempt.accuracy is not None:
        message = "the loss of a batch falls to its lowest value, but the accuracy on it is "
        message += f"{attempt.accuracy:.2f}; does training_step compare outputs with the targets "
        message += "of other samples?"
        verdict.failures.append(message)
        return
    message = f"one batch cannot be learned in {attempt.steps} steps: the loss goes from "
    message += f"{attempt.initial:.4g} to {attempt.loss:.4g}"
    if zero:
        message += f"; the gradient is zero of {list_some(zero)}"
    if exploding:
        message += f"; the gradient explodes of {list_some(exploding)}"
    has_fallen = attempt.loss < NO_CHANGE * attempt.initial or attempt.initial <= 0
    is_slow = attempt.steps < STEPS
    is_known = attempt.floor is not None or attempt.accuracy is not None
    may_learn = has_fallen and not zero and not exploding
    if may_learn and not is_known:
        verdict.figures["note"] = "the lowest possible loss is unknown"
        return
    if not zero and not exploding:
        message += "; do inputs and targets belong together, and does forward use the inputs?"
    overrides_update = type(trainer).update is not BaseTrainer.update
    is_small = trainer.model.count_parameters() < FEW_PARAMETERS
    if may_learn and (is_slow or overrides_update or is_small):
        verdict.warnings.append(message)
    else:
        verdict.failures.append(message)
