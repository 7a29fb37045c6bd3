"""Training of regressors: the targets are numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from config.classes import find_component
from config.schema import LossSettings
from data_loader.standardization import restore
from logger.figures import Figure, curve_figure, predicted_vs_true_figure
from metrics.average import WeightedMeans
from metrics.regression import RegressionMetrics, check_precision, metrics_of_numbers
from model import losses
from storage.example_inputs import ModelWrapper
from utils.errors import UserError
from utils.parallel import unsharded
from utils.randomness import random_positions

CURVE_POINTS = 500  # samples through which the figure of a curve is drawn


class Regressor(BaseTrainer):
    """Trains a network that computes numbers from ``input``, by `loss.name`.

    The ``target`` has the shape (N, K). The first K outputs are the predictions; a loss such as
    ``gaussian`` or ``quantile`` needs more outputs.

    A data set whose targets are standardized has the attribute `target_standardization`, the mean
    and the standard deviation of each of the K columns. Loss and network then work with
    standardized numbers, and predictions, metrics, figures and exported files are in the units of
    the data, in float64. Otherwise, all of them are in the units of the targets. If such a data set
    has `target_mean_and_std`, the loss divides by the standard deviation.
    """

    default_loss = "mse"

    @property
    def standardization(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each target; empty if targets are not standardized."""
        return list(getattr(self.dataset, "target_standardization", ()))

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch["input"])
        target = _like_outputs(batch["target"], outputs)
        self.record_losses(outputs, target)
        return {"loss": self.loss(outputs, target)}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch["input"])
        target = batch["target"]
        self._check_shapes(outputs, target)
        predicted = outputs[:, : target.shape[1]]
        self.metrics.update(predicted, target)
        values = {"true": target, "predicted": predicted}
        losses = self.loss.of_samples(outputs, _like_outputs(target, outputs))
        if losses is not None:
            values["loss"] = losses
        self.record_samples(**values)
        return {"loss": self.loss(outputs, _like_outputs(target, outputs))}

    def _check_shapes(self, outputs: Tensor, target: Tensor) -> None:
        columns = len(self.standardization)
        if columns and target.shape[1:] != (columns,):
            raise UserError(
                f"{self.dataset.title}: target_standardization has {columns} "
                "means and standard deviations, but targets have the shape "
                f"{tuple(target.shape[1:])}; give one pair for each column"
            )
        is_table = outputs.ndim == target.ndim == 2
        is_number = target.is_floating_point() or not self.dataset.classes
        if is_table and outputs.shape[1] >= target.shape[1] and is_number:
            return
        message = f"the model computes {tuple(outputs.shape[1:])} for an input, but targets "
        message += f"have the shape {tuple(target.shape[1:])}"
        if self.dataset.classes:
            message += "; a regressor needs data without classes"
        raise UserError(message)

    def configure_metrics(self) -> RegressionMetrics:
        return RegressionMetrics(self.standardization)

    def collect_results(self, means: WeightedMeans) -> dict[str, Tensor]:
        """As in the base class.

        Raises:
            UserError: if float32 cannot represent the targets of the data set.
        """
        results = super().collect_results(means)
        if not self.standardization:
            _, scale = getattr(self.dataset, "target_mean_and_std", (0.0, 1.0))
            check_precision(results["true"], scale, self.dataset.title)
        return results

    def exported_model(self, model: nn.Module) -> nn.Module:
        """The model, whose outputs are converted to the units of the data in float64."""
        if not self.standardization:
            return model
        return ModelInDataUnits(model, self.standardization, self.settings.loss)

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        """The numbers for each sample."""
        if self.standardization:
            outputs = restore_outputs(outputs, self.standardization, self.settings.loss)
        return [[{"value": value} for value in row] for row in outputs.tolist()]

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """The formula of a polynomial, in the units of the data."""
        powers: Any = getattr(self.model, "powers", None)
        if powers is None:
            return {}
        x, y = getattr(self.dataset, "axes", ("x", "y"))
        with unsharded(self.model):
            coefficients = powers()
        origin = getattr(self.model, "origin", 0.0)
        if origin != 0:
            x = f"({x} {-origin:+.15g})"
        std = 1.0
        if self.standardization:
            _, std = self.standardization[0]
        formula = format_polynomial(coefficients, x, std)
        return {"formula": [[self.dataset.title], [f"{y} = {formula}"]]}

    def sample_columns(self, samples: Mapping[str, Tensor]) -> Mapping[str, Sequence[Any]]:
        """Targets, predictions and squared errors, whose mean is the metric ``mse``.

        They are in the units of the data, as float64.
        """
        true = self._in_data_units(samples["true"])
        predicted = self._in_data_units(samples["predicted"])
        loss = (predicted - true).square().mean(1)
        values = {"true": true, "predicted": predicted, "loss": loss}
        return super().sample_columns(values)

    def sample_metrics(self, samples: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Loss, mean squared and mean absolute error, and R²."""
        _, stds = torch.tensor(self.standardization or [(0.0, 1.0)], dtype=torch.float64).T
        true = samples["true"].double()
        metrics = metrics_of_numbers(true, samples["predicted"].double(), stds)
        if "loss" in samples:
            metrics["loss"] = samples["loss"].double().mean()
        return metrics

    def ensemble_outputs(self, outputs: Sequence[Any], members: Sequence[BaseTrainer]) -> Tensor:
        """The means of the outputs, which other runs may have standardized in another way.

        Raises:
            UserError: if the losses, which define what outputs mean, differ.
        """
        converted = []
        for values, member in zip(outputs, members, strict=True):
            if member.settings.loss != self.settings.loss:
                raise UserError(
                    f"{self.run} and {member.run} cannot form an ensemble: loss.name or an "
                    "argument of the loss differs"
                )
            if self.standardization:
                others: Any = member  # check_same_targets has compared the targets
                own_units = relative_standardization(others.standardization, self.standardization)
                values = restore_outputs(values, own_units, self.settings.loss)
            converted.append(values)
        return torch.stack(converted).mean(0).float()

    def _in_data_units(self, numbers: Tensor) -> Tensor:
        if self.standardization:
            return restore(numbers, self.standardization)
        return numbers.double()

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        """Predicted against true numbers and, if there is one input, the curve."""
        heading = f"{self.dataset.title}: {split}, R² {results['r2'].item():.4f}"
        predicted = predicted_vs_true_figure(results["true"], results["predicted"], heading)
        figures = {"predicted": predicted}
        samples = self.samples(split)
        if not samples:  # a subclass records none
            return figures
        # A part of the data set may have been evaluated, as with trainer.fraction.
        positions = random_positions(len(samples["index"]), CURVE_POINTS)
        batch = self.loaders[split].load_batch(samples["index"][positions])
        if batch["input"].shape[1:] == (1,):
            axes = getattr(self.dataset, "axes", ("x", "y"))
            x_mean_and_std = getattr(self.dataset, "x_mean_and_std", (0.0, 1.0))
            x = restore(batch["input"], [x_mean_and_std])
            y = self._in_data_units(samples["true"])[positions, :1]
            curve = self._in_data_units(samples["predicted"])[positions, :1]
            figures["curve"] = curve_figure(x, y, heading, axes, curve)
        return figures


def relative_standardization(
    means_and_stds: Sequence[tuple[float, float]], own: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """What converts numbers that are standardized in one way to those in another way.

    Args:
        means_and_stds: of each target, with which the numbers are standardized.
        own: those of the result.

    Returns:
        The mean and the standard deviation of the numbers in the units of the result.
    """
    pairs = []
    for (mean, std), (own_mean, own_std) in zip(means_and_stds, own, strict=True):
        pairs.append(((mean - own_mean) / own_std, std / own_std))
    return pairs


class ModelInDataUnits(ModelWrapper):
    """A model whose outputs are converted to the units of the data, float64.

    Args:
        model: computes standardized numbers.
        means_and_stds: of each target.
        loss: defines what the outputs mean.
    """

    def __init__(
        self, model: nn.Module, means_and_stds: Sequence[tuple[float, float]], loss: LossSettings
    ) -> None:
        super().__init__(model)
        self.means_and_stds = means_and_stds
        self.loss = loss

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The outputs of the model in the units of the data."""
        outputs = self.model(*args, **kwargs)
        return restore_outputs(outputs, self.means_and_stds, self.loss)


def restore_outputs(
    outputs: Tensor, means_and_stds: Sequence[tuple[float, float]], loss: LossSettings
) -> Tensor:
    """Converts outputs for standardized targets to the units of the data.

    Args:
        outputs: the K predictions, then further outputs of the loss, on the CPU, shape (N, ...).
        means_and_stds: of each target, K items.
        loss: defines the further outputs. Those of ``quantile`` and ``gaussian`` are converted, but
            those of other losses are not.

    Returns:
        float64, of the same shape.
    """
    count = len(means_and_stds)
    predicted = restore(outputs[:, :count], means_and_stds)
    if outputs.shape[1] == count:
        return predicted
    others = outputs[:, count:].double()
    component = find_component(LossSettings, loss.name)
    if component is losses.quantile:
        others = restore(others.unflatten(1, (-1, count)), means_and_stds).flatten(1)
    elif component is losses.gaussian:
        squared_stds = [2 * math.log(std) for _, std in means_and_stds]
        others = others + torch.tensor(squared_stds, dtype=torch.float64)
    return torch.cat([predicted, others], dim=1)


def _like_outputs(target: Tensor, outputs: Tensor) -> Tensor:
    """Converts targets, of any real dtype, to that of the outputs, at least float32."""
    return target.to(torch.promote_types(outputs.dtype, torch.float32))


def format_polynomial(coefficients: list[float], x: str, std: float) -> str:
    """A polynomial as text, such as ``3 +2 x -0.5 x^2``.

    Args:
        coefficients: those of 1, x, x², ...
        x: name of the variable.
        std: standard deviation of the values, of which the constant shows six digits.
    """
    terms = []
    for power, coefficient in enumerate(coefficients):
        if power == 0:
            terms.append(_format_constant(coefficient, std))
        elif power == 1:
            terms.append(f"{coefficient:+.6g} {x}")
        else:
            terms.append(f"{coefficient:+.6g} {x}^{power}")
    return " ".join(terms)


def _format_constant(value: float, std: float) -> str:
    """A number with six digits, or more if it is larger than the standard deviation."""
    ratio = max(abs(value) / std, 1.0)
    digits = 6 + math.ceil(math.log10(ratio))
    return f"{value:.{min(digits, 17)}g}"
