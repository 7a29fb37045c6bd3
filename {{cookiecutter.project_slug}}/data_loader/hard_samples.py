"""A sampler that trains more often on the samples with high losses."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from base.base_dataset import BaseDataset
from base.base_sampler import BaseSampler
from utils.errors import UserError
from utils.randomness import RandomStream, make_generator

Part = Annotated[float, Field(ge=0, le=1)]


class HardSamples(BaseSampler):
    """The samples with the highest losses, and a random part of all others, shuffled.

    So an epoch has fewer samples, of which more can still be learned from (Loshchilov and Hutter,
    arXiv:1511.06343). The loss of a sample is that of the last batch that contained it. Samples
    that were in no batch yet count as those with the highest losses, and the first epoch is random.

    The labels should be clean: a wrong label has a high loss in each epoch. The loss that is
    logged for training is that of the chosen samples, so it is higher than the mean of all.

    Args:
        hard: Fraction of the samples, those with the highest losses.
        others: Fraction of the other samples, which are drawn at random.
    """

    def __init__(
        self,
        dataset: BaseDataset,
        seed: int,
        samples: Tensor | None = None,
        hard: Part = 0.5,
        others: Part = 0.5,
    ) -> None:
        if samples is None:
            samples = torch.arange(len(dataset))
        self.samples = samples
        self.seed = seed
        self.losses = torch.full((len(dataset),), torch.inf)
        self.hard = round(hard * len(samples))
        self.others = round(others * (len(samples) - self.hard))

    def __call__(self, epoch: int) -> Tensor:
        if epoch > 0 and self.losses.isinf().all():
            raise UserError(
                "no losses were recorded; call self.record_losses(outputs, target) in the "
                "trainer's training_step"
            )
        rng = make_generator(self.seed, RandomStream.SHUFFLING, epoch)
        shuffled = self.samples[torch.randperm(len(self.samples), generator=rng)]
        # Equal losses, as those that are not known yet, stay in random order.
        ranking = self.losses.cpu()[shuffled].argsort(descending=True, stable=True)
        hardest_first = shuffled[ranking]
        others = hardest_first[self.hard :]
        chosen = others[torch.randperm(len(others), generator=rng)[: self.others]]
        order = torch.cat([hardest_first[: self.hard], chosen])
        return order[torch.randperm(len(order), generator=rng)]

    def record_losses(self, indices: Tensor, losses: Tensor) -> None:
        """Keeps the losses of a training batch, on the device where they were computed."""
        self.losses = self.losses.to(losses.device)
        self.losses[indices.to(losses.device)] = losses

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = state["losses"].clone()
