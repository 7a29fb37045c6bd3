"""Whether the outputs for a sample depend on the other samples of its batch."""

from typing import Any

import torch
from torch import Tensor, nn

from base.base_trainer import BaseTrainer
from checks.outputs import predict, target_of
from checks.trial import seed_step, training_batch
from checks.verdict import Skipped, Verdict
from utils.device import to_device
from utils.nested import named_tensors

SAMPLES = 6  # in a batch
MIN_SAMPLES = 2 * SAMPLES  # for a second batch of other samples
TOLERANCE = 1e-3  # relative to the largest output: kernels round differently in other batches
SMALLEST_SCALE = 1e-3  # of outputs, for the tolerance
Outputs = list[Tensor]  # each with a row for each sample


def check_neighbours(verdict: Verdict, trial: BaseTrainer) -> None:
    """Compares the outputs for samples in different batches, in evaluation mode.

    Raises:
        Skipped: if there are no such outputs, or they are random numbers.
    """
    trial.autocast_dtype = torch.float32  # the others round too much to compare outputs
    count = len(trial.dataset)
    indices = torch.arange(SAMPLES) * (count - 1) // MIN_SAMPLES
    other_indices = count - 1 - indices
    reference = _outputs_of(trial, indices)
    if not _are_equal(reference, _outputs_of(trial, indices, seed=1)):
        _report_randomness(verdict, trial)
        return
    mixed = torch.cat([indices[:1], other_indices[1:]])
    differences = _find_differences(trial, indices, mixed, reference)
    verdict.figures["samples with other neighbours"] = SAMPLES
    if differences:
        message = "in evaluation mode, the output for a sample differs with "
        message += ", ".join(differences)
        module = _first_dependent_module(trial, indices, mixed)
        if module:
            message += f", first after {module}"
        message += (
            "; look for a reshape, transpose, softmax or mean over the batch, padding, and batch "
            "statistics (track_running_stats=False, or batch norm in training mode)"
        )
        verdict.failures.append(message)
    elif _gradient_reaches_others(trial, indices):
        verdict.failures.append(
            "in evaluation mode, the gradient of the output for a sample reaches the inputs of the "
            "others; look for a reshape, softmax or mean over the batch"
        )


def _find_differences(
    trial: BaseTrainer, indices: Tensor, mixed: Tensor, reference: Outputs
) -> list[str]:
    """In which batches the outputs for a sample differ from the reference.

    Args:
        trial: the copy of a trainer.
        indices: those of the samples of the reference.
        mixed: the first of them, then other ones.
        reference: the outputs for the batch of `indices`.
    """
    differences = []
    if not _are_equal(_first_row(reference), _first_row(_outputs_of(trial, mixed))):
        differences.append("other neighbours")
    try:
        alone = _outputs_of(trial, indices[:1])
        if not _are_equal(_first_row(reference), alone):
            differences.append("no neighbours")
    except Skipped:  # batch statistics of one sample are an error
        differences.append("no neighbours")
    reversed_outputs = _outputs_of(trial, indices.flip(0))
    if not _are_equal(reference, [rows.flip(0) for rows in reversed_outputs]):
        differences.append("another order of the batch")
    return differences


def _outputs_of(trial: BaseTrainer, indices: Tensor, seed: int = 0) -> Outputs:
    """The outputs for a batch of training samples.

    Raises:
        Skipped: if no output has a row for each sample.
    """
    batch = to_device(trial.loaders["train"].load_batch(indices), trial.device)
    seed_step(trial, seed)
    outputs = []
    for _, tensor in named_tensors(predict(trial, batch)):
        if tensor.shape[:1] == (len(indices),):
            outputs.append(tensor.detach())
    if not outputs:
        raise Skipped(
            f"{type(trial).__name__}.predict_step returns no tensor with a row for each sample"
        )
    return outputs


def _first_row(outputs: Outputs) -> Outputs:
    return [rows[:1] for rows in outputs]


def _are_equal(outputs: Outputs, others: Outputs) -> bool:
    """Whether outputs are the same up to rounding."""
    pairs = zip(outputs, others, strict=True)
    return all(_are_close(rows, other_rows) for rows, other_rows in pairs)


def _are_close(rows: Tensor, other_rows: Tensor) -> bool:
    """Whether two outputs are the same up to rounding; a longer padding is no difference."""
    if rows.ndim != other_rows.ndim:
        return False
    for axis in range(1, rows.ndim):
        length = min(rows.shape[axis], other_rows.shape[axis])
        rows = rows.narrow(axis, 0, length)
        other_rows = other_rows.narrow(axis, 0, length)
    is_exact = not rows.is_floating_point() and not rows.is_complex()
    if is_exact or rows.numel() == 0:
        return torch.equal(rows, other_rows)
    scale = max(float(rows.abs().max()), SMALLEST_SCALE)
    return torch.allclose(rows, other_rows, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def _report_randomness(verdict: Verdict, trial: BaseTrainer) -> None:
    """Adds a failure, because predictions of targets must not be random.

    Raises:
        Skipped: if the model may be a generative one, which draws random numbers.
    """
    if target_of(training_batch(trial, 1)) is None or len(trial.optimizers) > 1:
        raise Skipped(f"{type(trial).__name__}.predict_step draws random numbers")
    verdict.figures["random outputs"] = "yes"
    message = "in evaluation mode, the outputs for the same batch differ from call to call"
    trial.model.eval()
    for name, module in trial.model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training:
            message += f"; {name} stays in training mode"
            break
    message += "; is dropout applied without training=self.training?"
    verdict.failures.append(message)


class _OutputRecorder:
    """Records the first output of each module without parts, by name."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.handles = []
        for name, module in model.named_modules():
            if not list(module.children()):
                self.handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Any:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim > 0:
                self.outputs.setdefault(name, output.detach())

        return record

    def remove(self) -> None:
        """Stops recording."""
        for handle in self.handles:
            handle.remove()


def _first_dependent_module(trial: BaseTrainer, indices: Tensor, mixed: Tensor) -> str:
    """The first module whose output for the first sample depends on the others; else empty."""
    recorded = []
    for batch_indices in (indices, mixed):
        recorder = _OutputRecorder(trial.model)
        _outputs_of(trial, batch_indices)
        recorder.remove()
        recorded.append(recorder.outputs)
    outputs, other_outputs = recorded
    for name, output in outputs.items():
        if name in other_outputs and not _are_close(output[:1], other_outputs[name][:1]):
            kind = type(trial.model.get_submodule(name)).__name__
            return f"{name} ({kind})"
    return ""


def _gradient_reaches_others(trial: BaseTrainer, indices: Tensor) -> bool:
    """Whether the output for the first sample depends on the inputs of the others.

    It finds a dependence that is smaller than the tolerance of the outputs.
    """
    batch = to_device(trial.loaders["train"].load_batch(indices), trial.device)
    inputs = []
    for name, tensor in named_tensors(batch):
        if tensor.is_floating_point() and name != "target" and tensor.shape[:1] == (SAMPLES,):
            inputs.append(tensor.requires_grad_())
    if not inputs:
        return False
    seed_step(trial)
    trial.model.eval()
    total = torch.zeros((), device=trial.device)
    for _, tensor in named_tensors(trial.predict_step(trial.model, batch)):
        if tensor.requires_grad and tensor.shape[:1] == (SAMPLES,):
            total = total + tensor[0].abs().sum()
    if not total.requires_grad:
        return False
    for gradient in torch.autograd.grad(total, inputs, allow_unused=True):
        if gradient is None:
            continue
        largest = float(gradient.abs().max())
        largest_of_others = float(gradient[1:].abs().max())
        if largest_of_others > TOLERANCE * largest:
            return True
    return False
