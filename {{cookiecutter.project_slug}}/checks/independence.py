"""Whether samples are independent of each other, and labels belong to their inputs."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from checks.trial import (
    Deadline,
    accuracy_of,
    copied,
    labels_of,
    make_step,
    predict,
    seed_step,
    single_batch_step,
    target_of,
    training_batch,
    use_adam,
)
from checks.verdict import Skipped, Verdict
from sanity_check import evaluate_batches
from utils.device import to_device
from utils.nested import named_tensors

SAMPLES = 6
TOLERANCE = 1e-3  # of the largest output
MEAN_LOSSES = ("cross_entropy", "mse", "l1", "huber")  # means over samples
LEARNING_RATE = 3e-3
LEARNED_SAMPLES = 2048  # training samples that are learned, some of them several times
BATCH_SIZE = 64
MAX_STEPS = 200
SECONDS = 4.0
VALIDATION_SAMPLES = 512
SHUFFLES = 3  # a small network may sort classes correctly by chance
STANDARD_ERRORS = 4.0


def check_independence(trainer: BaseTrainer) -> Verdict:
    """Compares outputs in different batches; trains with the right labels, and with wrong ones."""
    verdict = Verdict("independence")
    if len(trainer.dataset) < 2 * SAMPLES:
        raise Skipped(f"there are only {len(trainer.dataset)} samples")
    reasons = []
    for part in (_check_outputs, _check_training_loss, _check_labels):
        try:
            with copied(trainer) as trial:
                part(verdict, trial)
        except Skipped as reason:
            reasons.append(str(reason))
        if verdict.failures:  # the other parts would fail for the same reason
            break
    if not verdict.figures:
        verdict.reason = "; ".join(reasons)
    return verdict


# The outputs for a sample in different batches


def _check_outputs(verdict: Verdict, trial: BaseTrainer) -> None:
    """The outputs for a sample alone, with others, and in another order."""
    trial.autocast_dtype = torch.float32  # others round more in a batch of another size
    loader = trial.loaders["train"]
    count = len(loader.dataset)
    indices = torch.arange(SAMPLES) * (count - 1) // (2 * SAMPLES)
    others = count - 1 - indices
    reference = _rows(trial, indices)
    if not _are_equal(reference, _rows(trial, indices, seed=1)):
        _report_randomness(verdict, trial)
        return
    mixed = torch.cat([indices[:1], others[1:]])
    differing = []
    if not _are_equal(_first(reference), _first(_rows(trial, mixed))):
        differing.append("other neighbours")
    if not _works_alone(trial, indices, reference):
        differing.append("no neighbours")
    if not _are_equal(reference, [rows.flip(0) for rows in _rows(trial, indices.flip(0))]):
        differing.append("another order of the batch")
    verdict.figures["samples with other neighbours"] = SAMPLES
    if differing:
        message = "in evaluation mode, the output for a sample differs with "
        message += ", ".join(differing)
        module = _first_dependent_module(trial, indices, mixed)
        if module:
            message += f", first after {module}"
        message += (
            "; look for a reshape, transpose or mean over the batch, padding, and batch statistics "
            "(track_running_stats=False)"
        )
        verdict.failures.append(message)
    elif _gradient_reaches_others(trial, indices):
        verdict.failures.append(
            "in evaluation mode, the gradient of the output for a sample reaches the inputs of the "
            "others; look for a reshape or mean over the batch"
        )


def _rows(trial: BaseTrainer, indices: Tensor, seed: int = 0) -> list[Tensor]:
    """The outputs for some training samples: tensors with a row for each sample."""
    batch = to_device(trial.loaders["train"].load_batch(indices), trial.device)
    seed_step(trial, seed)
    outputs = predict(trial, batch)
    rows = []
    for _, tensor in named_tensors(outputs):
        if tensor.shape[:1] == (len(indices),):
            rows.append(tensor.detach())
    if not rows:
        raise Skipped(f"{type(trial).__name__}.predict_step returns no tensor with a row a sample")
    return rows


def _works_alone(trial: BaseTrainer, indices: Tensor, reference: list[Tensor]) -> bool:
    """Whether a batch of one sample has the same output; it is an error with batch statistics."""
    try:
        alone = _rows(trial, indices[:1])
    except Skipped:
        return False
    return _are_equal(_first(reference), alone)


def _first(outputs: list[Tensor]) -> list[Tensor]:
    return [rows[:1] for rows in outputs]


def _are_equal(outputs: list[Tensor], others: list[Tensor]) -> bool:
    """Whether outputs are the same up to rounding; a longer padding is no difference."""
    for rows, other_rows in zip(outputs, others, strict=True):
        if rows.ndim != other_rows.ndim:
            return False
        for axis in range(1, rows.ndim):
            length = min(rows.shape[axis], other_rows.shape[axis])
            rows = rows.narrow(axis, 0, length)
            other_rows = other_rows.narrow(axis, 0, length)
        if not rows.is_floating_point() and not rows.is_complex():
            if not torch.equal(rows, other_rows):
                return False
            continue
        largest = float(rows.abs().max()) if rows.numel() else 0.0
        tolerance = TOLERANCE * max(largest, 1e-3)
        if not torch.allclose(rows, other_rows, rtol=0, atol=tolerance, equal_nan=True):
            return False
    return True


def _report_randomness(verdict: Verdict, trial: BaseTrainer) -> None:
    """Fails if a prediction of targets is random; a generative model may draw numbers."""
    batch = training_batch(trial, 1)
    if target_of(batch) is None or len(trial.optimizers) > 1:
        raise Skipped(f"{type(trial).__name__}.predict_step draws random numbers")
    trial.model.eval()
    modules = []
    for name, module in trial.model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training:
            modules.append(name)
    verdict.figures["random outputs"] = "yes"
    message = "in evaluation mode, the outputs for the same batch differ from call to call"
    if modules:
        message += f"; {modules[0]} stays in training mode"
    message += "; is dropout applied without training=self.training?"
    verdict.failures.append(message)


def _first_dependent_module(trial: BaseTrainer, indices: Tensor, mixed: Tensor) -> str:
    """The first module whose output for the first sample depends on the others."""
    recorded: list[dict[str, Tensor]] = []
    hooks = []
    for name, module in trial.model.named_modules():
        if list(module.children()):
            continue

        def record(_: Any, __: Any, output: Any, name: str = name) -> None:
            if isinstance(output, Tensor) and output.ndim > 0:
                recorded[-1].setdefault(name, output.detach())

        hooks.append(module.register_forward_hook(record))
    for selected in (indices, mixed):
        recorded.append({})
        _rows(trial, selected)
    for hook in hooks:
        hook.remove()
    first, second = recorded
    for name, output in first.items():
        if name in second and not _are_equal([output[:1]], [second[name][:1]]):
            kind = type(trial.model.get_submodule(name)).__name__
            return f"{name} ({kind})"
    return ""


def _gradient_reaches_others(trial: BaseTrainer, indices: Tensor) -> bool:
    """Whether the output for the first sample depends on the inputs of the others."""
    batch = to_device(trial.loaders["train"].load_batch(indices), trial.device)
    inputs = []
    for name, tensor in named_tensors(batch):
        if tensor.is_floating_point() and name != "target" and tensor.shape[:1] == (SAMPLES,):
            inputs.append(tensor.requires_grad_())
    if not inputs:
        return False
    seed_step(trial)
    trial.model.eval()
    outputs = trial.predict_step(trial.model, batch)
    total = torch.zeros((), device=trial.device)
    for _, tensor in named_tensors(outputs):
        if tensor.requires_grad and tensor.shape[:1] == (SAMPLES,):
            total = total + tensor[0].abs().sum()
    if not total.requires_grad:
        return False
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            largest = float(gradient.abs().max())
            if float(gradient[1:].abs().max()) > TOLERANCE * largest:
                return True
    return False


# The loss of a batch


def _check_training_loss(verdict: Verdict, trial: BaseTrainer) -> None:
    """The loss of a batch must be the mean of the losses of its samples."""
    settings = trial.settings.loss
    is_mean = settings.name in MEAN_LOSSES and not settings.balanced and not settings.class_weights
    if not is_mean or type(trial).update is not BaseTrainer.update:
        return
    trial.autocast_dtype = torch.float32
    indices = torch.arange(SAMPLES) * (len(trial.dataset) - 1) // SAMPLES
    total = _loss_of_samples(trial, indices)
    single_losses = []
    for index in indices:
        single_losses.append(_loss_of_samples(trial, index.reshape(1)))
    mean = sum(single_losses) / SAMPLES
    verdict.figures["loss of a batch / of its samples"] = f"{total:.4g} / {mean:.4g}"
    if not math.isclose(total, mean, rel_tol=1e-4, abs_tol=1e-6):
        verdict.failures.append(
            f"the loss of a batch ({total:.4g}) is not the mean of the losses of its samples "
            f"({mean:.4g}); look for a reshape that mixes samples, or a broadcast, in training_step"
        )


def _loss_of_samples(trial: BaseTrainer, indices: Tensor) -> float:
    batch = to_device(trial.loaders["train"].load_batch(indices), trial.device)
    seed_step(trial)
    trial.model.eval()
    loss = trial.training_step(trial.model, batch)["loss"].item()
    trial.model.train()
    return loss


# The labels


def _check_labels(verdict: Verdict, trial: BaseTrainer) -> None:
    """Trains with the labels, and with those of other samples, and compares the accuracies."""
    labels = labels_of(trial, training_batch(trial, 2))
    if labels is None:
        raise Skipped("the targets are no classes, so labels are not shuffled")
    if len(trial.optimizers) > 1:
        raise Skipped("with several optimizers, labels are not shuffled")
    count = min(VALIDATION_SAMPLES, len(trial.loaders["validation"].dataset))
    validation = to_device(trial.loaders["validation"].sample_batch(count), trial.device)
    if accuracy_of(trial, validation) is None:
        raise Skipped("the outputs are no logits, so labels are not shuffled")
    validation_labels = labels_of(trial, validation)
    assert validation_labels is not None
    classes = len(trial.dataset.classes)
    chance = validation_labels.bincount(minlength=classes).max().item() / count
    limit = chance + STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / count)
    verdict.figures["chance"] = chance
    learned, training = _learn(trial, validation, offset=0)
    verdict.figures["accuracy with labels"] = learned
    shuffled = 1.0
    for offset in range(1, 1 + SHUFFLES):
        with copied(trial) as other:
            accuracy, _ = _learn(other, validation, offset)
        shuffled = min(shuffled, accuracy)
        if shuffled <= limit:
            break
    verdict.figures["with shuffled labels"] = shuffled
    if shuffled > limit:
        verdict.failures.append(
            f"the validation accuracy is {shuffled:.2f} after training with shuffled labels; does "
            "the input or the evaluation contain the target?"
        )
    elif learned <= limit:
        _report_unlearned(verdict, learned, training, limit)


def _report_unlearned(verdict: Verdict, learned: float, training: float, limit: float) -> None:
    message = f"the validation accuracy ({learned:.2f}) is that of guessing, that on the training "
    message += f"samples is {training:.2f}"
    if training > limit:
        message += "; are the labels shuffled, so that they do not belong to their inputs?"
        verdict.failures.append(message)
    else:
        message += "; the labels may be shuffled, or a few steps are not enough"
        verdict.warnings.append(message)


def _learn(trial: BaseTrainer, validation: Batch, offset: int) -> tuple[float, float]:
    """Trains on some samples with the labels of the samples `offset` batches later.

    Returns:
        The accuracies on the validation and on the training samples.
    """
    untrained = copy.deepcopy(trial.model.state_dict())
    use_adam(trial, LEARNING_RATE)
    batches = _load_batches(trial)
    deadline = Deadline(SECONDS)
    for number in range(MAX_STEPS):
        batch = batches[number % len(batches)]
        other = batches[(number + offset) % len(batches)]
        if offset > 0:
            batch = {**batch, "target": other["target"].roll(offset, 0)}
        make_step(trial, single_batch_step(batch, len(batch["target"])))
        if deadline.is_over():
            break
    accuracy = _validate(trial, validation)
    training = accuracy_of(trial, batches[0]) or 0.0
    trial.model.load_state_dict(untrained)
    return accuracy, training


def _load_batches(trial: BaseTrainer) -> list[Batch]:
    """Some training samples in batches of equal sizes."""
    count = min(LEARNED_SAMPLES, len(trial.dataset))
    size = min(BATCH_SIZE, max(1, count // 4))
    loader = trial.loaders["train"]
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(trial.dataset), generator=generator)[: count - count % size]
    deadline = Deadline(SECONDS)
    batches: list[Batch] = []
    for indices in order.split(size):
        batches.append(to_device(loader.load_batch(indices), trial.device))
        if deadline.is_over() and len(batches) >= 2:
            break
    return batches


def _validate(trial: BaseTrainer, batch: Batch) -> float:
    """The accuracy as `evaluation_step` computes it, or else that of the outputs."""
    results: Mapping[str, Tensor] = evaluate_batches(trial, [batch])
    if "accuracy" in results and results["accuracy"].numel() == 1:
        return float(results["accuracy"])
    return accuracy_of(trial, batch) or 0.0
