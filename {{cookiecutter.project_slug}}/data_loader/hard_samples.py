"""A sampler that trains more often on the samples with high losses."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from base.base_dataset import BaseDataset
from base.base_sampler import BaseSampler
from utils.randomness import RandomStream, make_generator

Fraction = Annotated[float, Field(ge=0, le=1)]


class HardSamples(BaseSampler):
    """The samples with the highest losses, and a random part of all others, shuffled.

    Epochs are shorter, and consist mostly of samples that the model has not learned yet
    (Loshchilov and Hutter, arXiv:1511.06343). Samples are ranked by their own losses,
    each from the last time that it was in a batch. A sample that was in no batch yet
    ranks first, so the first epoch is a random part of the samples.

    The labels should be clean: a wrong label has a high loss in each epoch. The logged
    training loss is the mean over the chosen samples, so it is higher than that over the
    whole training set.

    Args:
        hard: Fraction of the samples, those with the highest losses.
        others: Fraction of the other samples, which are drawn at random.
    """

    def __init__(
        self,
        dataset: BaseDataset,
        seed: int,
        samples: Tensor | None = None,
        hard: Fraction = 0.4,
        others: Fraction = 0.3,
    ) -> None:
        if samples is None:
            samples = torch.arange(len(dataset))
        self.samples = samples
        self.seed = seed
        self.losses = torch.full((len(dataset),), torch.inf)
        self.hard_count = round(hard * len(samples))
        self.other_count = round(others * (len(samples) - self.hard_count))

    def __call__(self, epoch: int) -> Tensor:
        rng = make_generator(self.seed, RandomStream.SHUFFLING, epoch)
        shuffled = self.samples[torch.randperm(len(self.samples), generator=rng)]
        # Samples with the same loss, as those that were in no batch yet, stay shuffled.
        ranking = self.losses.cpu()[shuffled].argsort(descending=True, stable=True)
        hardest_first = shuffled[ranking]
        others = hardest_first[self.hard_count :]
        chosen = others[torch.randperm(len(others), generator=rng)[: self.other_count]]
        order = torch.cat([hardest_first[: self.hard_count], chosen])
        return order[torch.randperm(len(order), generator=rng)]

    def record_losses(self, indices: Tensor, losses: Tensor) -> None:
        """Keeps the losses of a training batch, on the device where they were computed."""
        self.losses = self.losses.to(losses.device)
        self.losses[indices.to(losses.device)] = losses

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = state["losses"].clone()
