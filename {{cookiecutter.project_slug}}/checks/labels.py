"""Whether targets belong to their inputs: training with them, and with those of other samples."""

from collections.abc import Mapping

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from checks.outputs import Score, labels_of, logits_of, score_of
from checks.trial import Deadline, copied, make_step, single_batch_step, use_adam
from checks.verdict import Skipped, Verdict
from sanity_check import evaluate_batches
from utils.device import to_device

LEARNING_RATE = 3e-3
TRAINING_SAMPLES = 2048  # some of them are learned several times
BATCH_SIZE = 64
STEPS = 200
SECONDS = 3.0
SCORED_SAMPLES = 512

MIN_CLASSES = 3  # of two classes, each is one below and one above the other
MIN_MISLABELED = 0.05  # fraction of the samples whose labels differ by the same number
MIN_AGREEMENT = 0.8  # fraction of the classes in which most wrong labels differ by that number
DOMINANT = 0.6  # fraction of the wrong labels that differ by that number


def check_labels(verdict: Verdict, trial: BaseTrainer) -> None:
    """Learns the targets, then targets of other samples, which must not work.

    Raises:
        Skipped: if the targets are neither classes nor numbers.
    """
    if len(trial.optimizers) > 1:
        raise Skipped("with several optimizers, targets are not shuffled")
    validation_loader = trial.loaders["validation"]
    validation = to_device(validation_loader.sample_batch(SCORED_SAMPLES), trial.device)
    untrained = score_of(trial, validation)
    if untrained is None:
        raise Skipped("the outputs are neither logits nor numbers, so targets are not shuffled")
    batches = _load_batches(trial)
    verdict.figures["chance"] = untrained.chance
    with copied(trial) as learner:
        steps = _train(learner, batches)
        learned = score_of(learner, validation)
        training = to_device(learner.loaders["train"].sample_batch(SCORED_SAMPLES), trial.device)
        training_score = score_of(learner, training)
        assert learned is not None
        assert training_score is not None
        verdict.figures[f"{learned.name} with labels"] = learned.value
        _check_offset(verdict, learner, {"training": training, "validation": validation})
    if verdict.failures:
        return
    with copied(trial) as learner:
        _train(learner, [_with_other_targets(batch) for batch in batches])
        name, shuffled = _evaluate(learner, _with_other_targets(validation))
    verdict.figures[f"{name} with shuffled labels"] = shuffled
    if shuffled > learned.limit:
        verdict.failures.append(
            f"the validation {learned.name} is {shuffled:.2f} with shuffled labels; does the "
            "input, predict_step or evaluation_step use the target?"
        )
    elif learned.is_random:
        _report_unlearned(verdict, learned, training_score, steps)


def _report_unlearned(verdict: Verdict, learned: Score, training: Score, steps: int) -> None:
    message = f"the validation {learned.name} ({learned.value:.2f}) is that of guessing after "
    message += f"{steps} steps, that on training samples is {training.value:.2f}"
    if not training.is_random or steps == STEPS:
        message += "; are the labels shuffled, so that they do not belong to their inputs?"
        verdict.failures.append(message)
    else:
        message += "; the labels may be shuffled, or the steps are too few"
        verdict.warnings.append(message)


# Training and evaluation


def _load_batches(trial: BaseTrainer) -> list[Batch]:
    """Random training samples in batches of equal sizes, at least two batches."""
    count = min(TRAINING_SAMPLES, len(trial.dataset))
    size = min(BATCH_SIZE, count // 4)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(trial.dataset), generator=generator)
    loader = trial.loaders["train"]
    deadline = Deadline(SECONDS)
    batches: list[Batch] = []
    for indices in order[: count - count % size].split(size):
        batches.append(to_device(loader.load_batch(indices), trial.device))
        if deadline.is_over() and len(batches) >= 2:
            break
    return batches


def _train(trial: BaseTrainer, batches: list[Batch]) -> int:
    """Trains on batches in turn; returns the number of steps."""
    use_adam(trial, LEARNING_RATE)
    deadline = Deadline(SECONDS)
    for number in range(STEPS):
        batch = batches[number % len(batches)]
        make_step(trial, single_batch_step(batch, len(batch["target"])))
        if deadline.is_over():
            return number + 1
    return STEPS


def _with_other_targets(batch: Batch) -> Batch:
    """A batch in which each sample has the target of the one before; they are in random order."""
    return {**batch, "target": batch["target"].roll(1, 0)}


def _evaluate(trial: BaseTrainer, batch: Batch) -> tuple[str, float]:
    """The accuracy or R² of `evaluation_step`, or else that of `predict_step`, with its name."""
    results: Mapping[str, Tensor] = evaluate_batches(trial, [batch])
    for name in ("accuracy", "r2"):
        if name in results and results[name].numel() == 1:
            return name, float(results[name])
    score = score_of(trial, batch)
    assert score is not None
    return score.name, score.value


# Labels that are off by a number


def _check_offset(verdict: Verdict, learner: BaseTrainer, batches: Mapping[str, Batch]) -> None:
    """Finds wrong labels that differ from the predicted class by the same number in each class."""
    classes = len(learner.dataset.classes)
    if classes < MIN_CLASSES:
        return
    for split, batch in batches.items():
        labels = labels_of(learner, batch)
        logits = logits_of(learner, batch)
        assert labels is not None
        assert logits is not None
        offset, fraction = find_offset(logits.argmax(1).cpu(), labels.cpu(), classes)
        if offset != 0:
            verdict.failures.append(
                f"{fraction:.0%} of the {split} labels are {offset:+d} from the predicted class, "
                "in each class; are some labels off by that number?"
            )


def find_offset(predicted: Tensor, labels: Tensor, classes: int) -> tuple[int, float]:
    """The offset of wrong labels that is the most common one in almost all classes.

    Args:
        predicted: classes, int64, shape (N,).
        labels: int64, shape (N,); others than classes are left out.
        classes: the number of classes C. After the last class comes the first one.

    Returns:
        The offset, from -C / 2 to C / 2, and the fraction of samples that have it; 0 if there is
        none.
    """
    is_class = (labels >= 0) & (labels < classes)
    is_wrong = is_class & (labels != predicted)
    offsets = (labels - predicted)[is_wrong] % classes
    if len(offsets) < MIN_MISLABELED * len(labels):
        return 0, 0.0
    counts = offsets.bincount(minlength=classes)
    offset = int(counts.argmax())
    fraction = int(counts[offset]) / len(labels)
    agreeing = 0
    for label in range(classes):
        of_class = offsets[predicted[is_wrong] == label]
        if len(of_class) > 0 and int(of_class.bincount().argmax()) == offset:
            agreeing += 1
    is_dominant = int(counts[offset]) > DOMINANT * len(offsets)
    if fraction < MIN_MISLABELED or agreeing < MIN_AGREEMENT * classes or not is_dominant:
        return 0, 0.0
    if offset > classes // 2:
        offset -= classes
    return offset, fraction
