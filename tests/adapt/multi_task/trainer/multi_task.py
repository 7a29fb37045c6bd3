"""Training of a network for two tasks at once."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from model.wave_net import WaveNet

TOLERANCE = 0.25  # of a correct frequency


class MultiTask(BaseTrainer):
    """Weights the losses of both tasks by trained uncertainties (Kendall et al., arXiv:1705.07115).

    The uncertainty of a task is the logarithm of a variance: a parameter of the model.
    """

    model: WaveNet

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch["input"])
        shape_loss = cross_entropy(outputs["shape"].float(), batch["shape"])
        frequency_loss = mse_loss(outputs["frequency"].float(), batch["frequency"])
        log_variances = self.model.log_variances
        shape_weight, frequency_weight = (-log_variances).exp()
        loss = shape_weight * shape_loss + frequency_weight * frequency_loss / 2
        return {
            "loss": loss + log_variances.sum() / 2,
            "shape_weight": shape_weight,
            "frequency_weight": frequency_weight,
        }

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch["input"])
        errors = (outputs["frequency"] - batch["frequency"]).abs()
        is_correct = outputs["shape"].argmax(1) == batch["shape"]
        both_correct = is_correct & (errors < TOLERANCE)
        return {
            "accuracy": is_correct.float().mean(),
            "frequency_error": errors.mean(),
            "both_correct": both_correct.float().mean(),
        }

    def describe(self, outputs: Any) -> list[list[dict[str, Any]]]:
        """The most probable shape, and the frequency, of each signal."""
        described = []
        frequencies = outputs["frequency"].tolist()
        for shape, frequency in zip(outputs["shape"].argmax(1), frequencies, strict=True):
            described.append([{"shape": self.dataset.classes[shape], "frequency": frequency}])
        return described
