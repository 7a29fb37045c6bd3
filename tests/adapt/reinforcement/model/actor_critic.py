"""A policy and the value of states."""

from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class ActorCritic(BaseModel):
    """Two networks with a hidden layer each.

    Args:
        width: Units of the hidden layers.
    """

    def __init__(self, width: Count = 64) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
        self.critic = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        """Logits of a push to the right, and values, shape (...), of states, shape (..., 4)."""
        return {"right": self.actor(input).squeeze(-1), "value": self.critic(input).squeeze(-1)}
