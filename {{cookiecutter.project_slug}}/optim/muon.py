"""Muon for matrices and convolution kernels, and AdamW for all other parameters."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from optim.optimizers import has_fused_kernel, without_compiler_import
from utils.parallel import is_sharded, match_layout

Group = dict[str, Any]
# The base class with methods that do not import torch's compiler, which takes as long as torch.
BaseOptimizer: Any = without_compiler_import(Optimizer)

ITERATIONS = 3  # with 5, the default network is as accurate, and its steps take 1 to 2 % longer
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # chosen by Jordan et al. for few iterations


class MuonAndAdamW(BaseOptimizer):  # type: ignore[misc]
    """Muon for real-valued matrices and convolutions, and AdamW for all other parameters.

    Jordan et al., 2024, "Muon: an optimizer for hidden layers". The weights of a
    convolution, shape (out, in, height, width), count as a matrix of shape (out, in *
    height * width).

    Args:
        lr: Peak learning rate of matrices and convolutions.
        momentum: Momentum factor of matrices and convolutions.
        weight_decay: Decoupled weight decay.
        adamw_lr: Peak learning rate of all other parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adamw_lr: float = 1e-3,
    ) -> None:
        # Before the constructor of the base class, which calls `add_param_group`.
        self.adamw_lr = adamw_lr
        self.adamw: Optimizer | None = None  # built in the next step
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        if not self._groups(is_matrix=True):
            raise ValueError("the model has no matrices to train; use AdamW instead")

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group of matrices and convolutions, and one of all other parameters."""
        self.adamw = None
        parameters = param_group["params"]
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        matrices = []
        others = []
        for parameter in parameters:
            if parameter.ndim >= 2 and not parameter.is_complex():
                matrices.append(parameter)
            else:
                others.append(parameter)
        if matrices:
            super().add_param_group({**param_group, "params": matrices, "is_matrix": True})
        if others:
            defaults = {"lr": self.adamw_lr, "name": "AdamW"}
            group = {**defaults, **param_group, "params": others, "is_matrix": False}
            super().add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Makes a step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self._groups(is_matrix=True):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update_matrix(parameter, group)
        others = self._groups(is_matrix=False)
        if others:
            if self.adamw is None:
                self.adamw = self._build_adamw(others)
            self.adamw.step()
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        """Loads a state, which replaces the groups and the state that AdamW shares."""
        super().load_state_dict(state_dict)
        self.adamw = None

    def _build_adamw(self, groups: list[Group]) -> Optimizer:
        """AdamW for some groups, which adds its options to them, and shares the state."""
        fused = has_fused_kernel(AdamW, groups) or None
        adamw: Optimizer = without_compiler_import(AdamW)(groups, fused=fused)
        adamw.state = self.state
        return adamw

    def _update_matrix(self, weight: Tensor, group: Group) -> None:
        """A step of Muon for the weights of one layer."""
        gradient = weight.grad
        assert gradient is not None
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"])  # Nesterov's momentum
        if is_sharded(update):
            update = update.full_tensor()  # type: ignore[attr-defined]  # each process needs all rows
        # A matrix, shape (out, height * width * in); in channels_last, this copies nothing.
        update = update.movedim(1, -1)
        matrix = orthogonalize(update.flatten(1))
        update = matrix.view(update.shape).movedim(-1, 1)
        rate = group["lr"] * max(1.0, len(matrix) / matrix.shape[1]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.sub_(match_layout(update, weight), alpha=rate)

    def _groups(self, is_matrix: bool) -> list[Group]:
        return [group for group in self.param_groups if group["is_matrix"] == is_matrix]


def _polynomial(gram: Tensor) -> Tensor:
    """The factor of an iteration: a + b G + c G², for a Gram matrix G."""
    a, b, c = COEFFICIENTS
    polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal().add_(a)
    return polynomial


def orthogonalize(matrix: Tensor) -> Tensor:
    """Moves the singular values of a matrix close to 1, by Newton-Schulz iterations.

    An iteration multiplies the matrix by a polynomial of its Gram matrix. The polynomials
    are multiplied first, since the Gram matrices are smaller: for 64×576, that takes 0.3
    ms instead of 0.6 on a CPU core.

    Args:
        matrix: shape (M, N).

    Returns:
        A matrix of the same shape, float32.
    """
    is_tall = len(matrix) > matrix.shape[1]
    if is_tall:
        matrix = matrix.T
    matrix = matrix.float()
    matrix = matrix / matrix.norm().clamp(min=1e-7)
    gram = matrix @ matrix.T
    polynomial = _polynomial(gram)
    product = polynomial
    for _ in range(ITERATIONS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    result = product @ matrix
    if is_tall:
        result = result.T
    return result
