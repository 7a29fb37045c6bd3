"""A pole on a cart, which has to be pushed to the left or right so that the pole stays up."""

from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from base.base_dataset import BaseDataset, Batch, Sample
from config.schema import Count
from utils.errors import UserError
from utils.randomness import make_generator, uniform

COUNTS = {"train": 1024, "validation": 100, "test": 200}
FORCE = 10.0
GRAVITY = 9.8
CART_MASS = 1.0
POLE_MASS = 0.1
HALF_LENGTH = 0.5  # of the pole
SECONDS = 0.02  # of a move
MAX_POSITION = 2.4
MAX_ANGLE = 0.21


class CartPole(BaseDataset):
    """Carts with a pole (Barto, Sutton and Anderson, 1983). A batch is a state of each cart.

    A training batch is what happens in the next moves, which `policy` chooses. The carts continue
    from there when they are in a batch again.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no carts.
        seed: random seed of the first states.
        moves: Moves of each cart in a training batch.

    Attributes:
        policy: computes ``right``, the logits of a push to the right, from states. Without one,
            training batches are states as well.
    """

    title = "cart-pole"
    saved_attributes = ("states",)
    in_memory = True
    uses_global_rng = False
    device_tensors = ("states",)
    policy: nn.Module | None = None

    def __init__(self, root: Path, split: str | None, seed: int, moves: Count = 16) -> None:
        self.moves = moves
        name = split or ""
        self.states = first_states(COUNTS.get(name, 0), make_generator(seed, *name.encode()))

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.states[indices], "index": indices}

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        if rng is None or self.policy is None:
            return batch
        return self._play(self.policy, batch["index"], rng)

    def _play(self, policy: nn.Module, carts: Tensor, rng: Generator) -> Batch:
        """Moves some carts; those that fail begin again.

        Returns:
            ``input``: the state before each move, shape (N, moves, 4); ``right`` and ``failed``:
            whether it was to the right, and whether it failed, shape (N, moves); ``last``: the
            state after the last move, shape (N, 4).
        """
        states = self.states[carts]
        history: dict[str, list[Tensor]] = {"input": [], "right": [], "failed": []}
        for _ in range(self.moves):
            with torch.no_grad():
                probability = policy(states)["right"].sigmoid()
            right = uniform(rng, len(carts)) < probability
            next_states = move(states, right)
            failed = has_failed(next_states)
            history["input"].append(states)
            history["right"].append(right)
            history["failed"].append(failed)
            states = torch.where(failed[:, None], first_states(len(carts), rng), next_states)
        self.states[carts] = states
        batch = {name: torch.stack(values, dim=1) for name, values in history.items()}
        return {**batch, "last": states}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads position, velocity, angle and angular velocity, with commas between them."""
        try:
            state = torch.tensor([float(word) for word in source.split(",")]).reshape(4)
        except (ValueError, RuntimeError):
            raise UserError(f"{source}: not four numbers; write them as in 0,0,0.1,0") from None
        return [(source, {"input": state})]


def first_states(count: int, rng: Generator) -> Tensor:
    """Random states in which the pole stands almost still, shape (count, 4)."""
    return 0.1 * uniform(rng, count, 4) - 0.05


def move(states: Tensor, right: Tensor) -> Tensor:
    """The states after a push to the right or to the left, shape (N, 4).

    Args:
        states: position, velocity, angle and angular velocity, shape (N, 4).
        right: whether to push to the right, bool, shape (N,).
    """
    _, velocity, angle, spin = states.unbind(1)
    mass = CART_MASS + POLE_MASS
    force = torch.where(right, FORCE, -FORCE)
    push = (force + POLE_MASS * HALF_LENGTH * spin**2 * angle.sin()) / mass
    inertia = HALF_LENGTH * (4 / 3 - POLE_MASS * angle.cos() ** 2 / mass)
    spin_rate = (GRAVITY * angle.sin() - angle.cos() * push) / inertia
    acceleration = push - POLE_MASS * HALF_LENGTH * spin_rate * angle.cos() / mass
    rates = torch.stack([velocity, acceleration, spin, spin_rate], dim=1)
    return states + SECONDS * rates


def has_failed(states: Tensor) -> Tensor:
    """Whether the cart has left the track or the pole has fallen, bool, shape (N,)."""
    return (states[:, 0].abs() > MAX_POSITION) | (states[:, 2].abs() > MAX_ANGLE)
