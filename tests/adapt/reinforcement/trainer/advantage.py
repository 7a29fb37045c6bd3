"""Reinforcement learning by an advantage actor-critic."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from config.schema import Count, Fraction
from data_loader.cart_pole import has_failed, move


class AdvantageActorCritic(BaseTrainer):
    """Trains a policy on the moves that it makes itself (A2C: Mnih et al., arXiv:1602.01783).

    The reward of a move is 1 - `discount` unless it fails, so that values are between 0 and 1.

    Args:
        discount: Weight of the rewards after a move, relative to its own.
        episode: Moves in an episode of the evaluation, whose rewards are 1.
    """

    def __init__(self, discount: Fraction = 0.98, episode: Count = 200, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.discount = discount
        self.episode = episode
        dataset: Any = self.dataset
        dataset.policy = self.model

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch["input"])
        returns = self.discounted_returns(batch)
        advantages = returns - outputs["value"].detach()
        advantages = advantages / (advantages.std() + 1e-6)
        right = batch["right"].float()
        surprise = binary_cross_entropy_with_logits(outputs["right"], right, reduction="none")
        policy_loss = (advantages * surprise).mean()
        value_loss = mse_loss(outputs["value"], returns)
        failed = batch["failed"].float().mean()
        return {"loss": policy_loss + value_loss, "value_loss": value_loss, "failed": failed}

    def discounted_returns(self, batch: Batch) -> Tensor:
        """The discounted sum of the rewards from each move on, shape (N, moves).

        The value of the last state stands for the rewards after the last move.
        """
        with torch.no_grad():
            value = self.model(batch["last"])["value"]
        returns = []
        for failed in reversed(batch["failed"].unbind(1)):
            value = torch.where(failed, 0, 1 - self.discount + self.discount * value)
            returns.append(value)
        return torch.stack(returns[::-1], dim=1)

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The mean number of moves before the pole falls, without random moves."""
        states = batch["input"]
        is_up = torch.ones(len(states), dtype=torch.bool, device=self.device)
        moves = torch.zeros(len(states), device=self.device)
        for _ in range(self.episode):
            states = move(states, model(states)["right"] > 0)
            is_up = is_up & ~has_failed(states)
            moves += is_up
        return {"return": moves.mean()}
