"""A network that computes the energy of particles."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class Energy(BaseModel):
    """The sum over all pairs of particles of a smooth function of their distance.

    Args:
        width: Units of the hidden layers.
    """

    def __init__(self, width: Count = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1, bias=False),  # forces do not determine the constant of an energy
        )

    def forward(self, input: Tensor) -> Tensor:
        """Energies, shape (N,), of positions, shape (N, P, 2)."""
        first, second = torch.triu_indices(input.shape[1], input.shape[1], offset=1)
        distances = (input[:, first] - input[:, second]).norm(dim=2, keepdim=True)
        energies: Tensor = self.layers(distances)
        return energies.sum((1, 2))
