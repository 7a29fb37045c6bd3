"""The ranges of what the model gets: values that are not finite, constant or not normalised."""

from typing import Any

from torch import Tensor, nn

from base.base_trainer import BaseTrainer
from checks.outputs import predict
from checks.trial import training_batch
from checks.verdict import Skipped, Verdict, list_some
from utils.errors import describe_error
from utils.nested import named_tensors

SAMPLES = 1024
MODEL_SAMPLES = 64
MAX_FEATURES = 10_000  # whose ranges are examined one by one
LARGE_MEAN = 3.0  # of normalised inputs
LARGE_STD = 5.0
SMALL_STD = 0.05
FAILED_DISTANCE = 3.0  # between a warning, above 1, and a failure


def check_ranges(verdict: Verdict, trial: BaseTrainer, split: str) -> None:
    """Examines a batch of a split as for evaluation; the inputs only if it is the training set."""
    try:
        batch = trial.loaders[split].sample_batch(SAMPLES)
    except Exception as error:  # a broken sample, which has been reported
        verdict.failures.append(f"{split} samples cannot be loaded: {describe_error(error)}")
        return
    for name, tensor in named_tensors(batch):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        values = tensor.detach().double()
        is_input = name.split()[0] != "target" and tensor.ndim > 1
        if not bool(values.isfinite().all()):
            verdict.failures.append(f"{name!r} of {split} samples contains NaN or infinity")
        elif is_input and split == "train":
            found = Verdict(verdict.name)
            _check_input(found, name, values)
            if found.failures and _first_layer_gets_normal_inputs(trial):
                found.warnings += found.failures
                found.failures = []
            verdict.failures += found.failures
            verdict.warnings += found.warnings
            verdict.figures |= found.figures


def _first_layer_gets_normal_inputs(trial: BaseTrainer) -> bool:
    """Whether the model normalises its inputs before its first layer with weights."""
    inputs: list[Tensor] = []

    def record(_: nn.Module, arguments: Any) -> None:
        inputs.extend(tensor for _, tensor in named_tensors(arguments))

    for module in trial.model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            module.register_forward_pre_hook(record)
    try:
        predict(trial, training_batch(trial, MODEL_SAMPLES), training=True)
    except Skipped:
        return False
    if not inputs or not inputs[0].is_floating_point():
        return False
    values = inputs[0].detach().float()
    return distance_from_normal(values.mean().item(), values.std().item()) <= 1


def _check_input(verdict: Verdict, name: str, values: Tensor) -> None:
    """Examines an input, float64, shape (N, ...)."""
    mean = values.mean().item()
    std = values.std().item()
    verdict.figures[f"{name} mean, std"] = f"{mean:.3g}, {std:.3g}"
    features = values.flatten(1)
    if len(values) > 1 and bool((features == features[0]).all()):
        verdict.failures.append(f"{name!r} is the same for all training samples")
        return
    has_columns = values.ndim == 2 and 1 < features.shape[1] <= MAX_FEATURES
    if has_columns:
        _check_columns(verdict, name, features)
        return
    message = f"{name!r} is not normalised: mean {mean:.3g}, std {std:.3g} (usual are 0 and 1); "
    message += "normalise it in `transform`, by what `fit` computes"
    _report_distance(verdict, message, distance_from_normal(mean, std))


def _check_columns(verdict: Verdict, name: str, features: Tensor) -> None:
    """Examines each feature, shape (N, F), and reports the one that is furthest from normal."""
    constant = []
    furthest = 0
    largest_distance = 0.0
    for column, values in enumerate(features.T):
        if bool((values == values[0]).all()):
            constant.append(str(column))
            continue
        is_one_hot = bool(((values == 0) | (values == 1)).all())
        distance = distance_from_normal(values.mean().item(), values.std().item())
        if distance > largest_distance and not is_one_hot:
            furthest = column
            largest_distance = distance
    if constant:
        verdict.warnings.append(
            f"constant in all samples: features {list_some(constant)} of {name!r}"
        )
    values = features[:, furthest]
    message = f"{name!r} is not normalised: feature {furthest} has mean {values.mean():.3g}, std "
    message += f"{values.std():.3g} (usual are 0 and 1); normalise it by what `fit` computes"
    _report_distance(verdict, message, largest_distance)


def distance_from_normal(mean: float, std: float) -> float:
    """How far mean and standard deviation are from 0 and 1; above 1 is unusual."""
    smallest = max(std, 1e-12)
    return max(abs(mean) / LARGE_MEAN, std / LARGE_STD, SMALL_STD / smallest)


def _report_distance(verdict: Verdict, message: str, distance: float) -> None:
    if distance > FAILED_DISTANCE:
        verdict.failures.append(message)
    elif distance > 1:
        verdict.warnings.append(message)
