"""Three particles that attract each other, and repel each other if they are close."""

from pathlib import Path

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.errors import UserError
from utils.randomness import make_generator

COUNTS = {"train": 4000, "validation": 500, "test": 1000}
CORNERS = torch.tensor([[0.0, 0.0], [1.2, 0.0], [0.6, 1.0]])  # mean positions


class Particles(BaseDataset):
    """Positions and forces, both float32, shape (3, 2). The energies are not known.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no positions.
        seed: random seed of the positions.
    """

    title = "particles"
    fitted = ("target_mean_and_std",)  # the loss divides forces by their standard deviation
    target_mean_and_std: tuple[float, float]
    in_memory = True
    uses_global_rng = False
    device_tensors = ("positions", "forces")

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        name = split or ""
        rng = make_generator(seed, *name.encode())  # other positions in each split
        count = COUNTS.get(name, 0)
        self.positions = CORNERS + 0.2 * torch.randn(count, 3, 2, generator=rng)
        self.forces = morse_forces(self.positions)

    def fit(self) -> None:
        self.target_mean_and_std = (self.forces.mean().item(), self.forces.std().item())

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.positions[indices], "target": self.forces[indices]}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads x and y of each particle, with commas between the numbers."""
        try:
            positions = torch.tensor([float(word) for word in source.split(",")]).reshape(3, 2)
        except (ValueError, RuntimeError):
            raise UserError(f"{source}: not six numbers; write them as in 0,0,1,0,0,1") from None
        return [(source, {"input": positions})]


def morse_forces(positions: Tensor) -> Tensor:
    """Forces, shape (N, P, 2), of the energies (1 - exp(1 - distance))² of all pairs."""
    differences = positions[:, :, None] - positions[:, None]
    distances = differences.norm(dim=3, keepdim=True)
    decay = (1 - distances).exp()
    slopes = 2 * (1 - decay) * decay
    directions = torch.where(distances > 0, differences / distances, 0)
    return -(slopes * directions).sum(2)
