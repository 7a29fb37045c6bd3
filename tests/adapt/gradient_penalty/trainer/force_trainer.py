"""Training of an energy by its forces."""

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer


class ForceTrainer(BaseTrainer):
    """Trains a network that computes energies, shape (N,), from positions, shape (N, P, D).

    The forces are the negative gradient of the energy. They are the targets, so that the gradient
    of the loss contains second derivatives of the network.
    """

    default_loss = "mse"
    evaluates_with_gradients = True

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = self.predict_step(model, batch)
        return {"loss": self.loss(outputs["force"], batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.training_step(model, batch)

    def predict_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        positions = batch["input"].detach().requires_grad_()
        energies = model(positions)
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
        return {"energy": energies, "force": -gradient}
