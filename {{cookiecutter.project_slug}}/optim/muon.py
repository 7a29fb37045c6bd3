"""Muon for matrices, and AdamW for all other parameters."""

from typing import Any

from torch.optim import AdamW, Muon, Optimizer

from optim.optimizers import without_compiler_import

Group = dict[str, Any]


class MuonAndAdamW(Optimizer):
    """Orthogonalised momentum for real matrices, and AdamW for all other parameters.

    Jordan et al., 2024, "Muon: an optimizer for hidden layers". The two optimizers share the
    parameter groups and the state of this one.

    Args:
        lr: Highest learning rate of the matrices.
        momentum: Momentum factor of the matrices.
        weight_decay: Decoupled weight decay.
        adamw_lr: Highest learning rate of all other parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adamw_lr: float = 1e-3,
    ) -> None:
        self.adamw_lr = adamw_lr
        self.parts: list[Optimizer] = []  # built in the first step
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        if not self._groups(is_matrix=True):
            raise ValueError("the model has no matrices to train; use AdamW instead")

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group for the matrices, and one for all other parameters."""
        parameters = list(param_group["params"])
        matrices = []
        others = []
        for parameter in parameters:
            if parameter.ndim == 2 and not parameter.is_complex():  # Muon takes real ones only
                matrices.append(parameter)
            else:
                others.append(parameter)
        if matrices:
            super().add_param_group({**param_group, "params": matrices, "is_matrix": True})
        if others:
            group = {"lr": self.adamw_lr, **param_group, "params": others, "is_matrix": False}
            super().add_param_group(group)

    def step(self, closure: Any = None) -> Any:
        """Makes a step of both optimizers."""
        loss = None
        if closure is not None:
            loss = closure()
        for part in self._linked_parts():
            part.step()
        return loss

    def _linked_parts(self) -> list[Optimizer]:
        """Muon and AdamW, with the present groups and state of this optimizer."""
        matrices = self._groups(is_matrix=True)
        others = self._groups(is_matrix=False)
        if not self.parts:
            self.parts.append(without_compiler_import(Muon)(matrices))
            if others:
                self.parts.append(without_compiler_import(AdamW)(others))
        for part, groups in zip(self.parts, (matrices, others), strict=False):
            part.param_groups = groups
            part.state = self.state
        return self.parts

    def _groups(self, is_matrix: bool) -> list[Group]:
        return [group for group in self.param_groups if group["is_matrix"] == is_matrix]
