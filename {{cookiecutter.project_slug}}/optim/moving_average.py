"""The exponential moving average of a model's weights."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel

from utils.errors import UserError, describe_error
from utils.parallel import local_tensor

Pair = tuple[Tensor, Tensor]  # a tensor of the average, and that of the model


def decay_after(updates: int, decay: float) -> float:
    """The decay of the update that follows after a number of updates.

    It rises to `decay`, so that the average soon forgets the first weights, which are nearly
    untrained: (1 + n) / (10 + n) averages about the last ninth of n updates.
    """
    return min(decay, (1 + updates) / (10 + updates))


def describe_short_average(decay: float, total_steps: int) -> str:
    """What the decay reaches in a run that ends before it has risen; empty in a longer run."""
    reached = decay_after(total_steps - 1, decay)
    if reached == decay:
        return ""
    steps_needed = math.ceil((10 * decay - 1) / (1 - decay)) + 1
    return (
        f"trainer.ema = {decay}: the decay rises to {reached:.4g} in the "
        f"{total_steps} steps of this run, and to {decay} from step {steps_needed} "
        "on; until then, the average covers about the last ninth of the steps"
    )


class MovingAverage(AveragedModel):
    """An exponential moving average of parameters and buffers; `module` is the averaged model.

    torch's own `update_parameters` waits for the device in each step; this one does not. Of a
    sharded model, each process averages its own part. Copied instead of averaged are integers,
    booleans, numbers with fewer than 32 bits, and values of a buffer that are not finite. The
    number of updates is a part of the state.

    Args:
        model: the model to average.
        decay: weight of the previous average in each update, in [0, 1), to which it rises; see
            `decay_after`.

    Raises:
        UserError: if a trained parameter has fewer than 32 bits, in which an average stands still,
            or the model cannot be copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not _is_averaged(parameter):
                dtype = str(parameter.dtype).removeprefix("torch.")
                raise UserError(
                    f"trainer.ema: {name} of the model is {dtype}, "
                    "which rounds the small steps of an average away; "
                    "use float32 parameters with trainer.precision"
                )
        try:
            super().__init__(model, use_buffers=True)
        except Exception as error:  # whatever the code of a model may raise
            raise UserError(
                f"trainer.ema: {type(model).__name__} cannot be copied: {describe_error(error)}; "
                "create what cannot be copied outside of the model, or leave trainer.ema out"
            ) from error
        self.decay = decay
        # Pairs of tensors to update, found once: walking through both models takes as long as
        # the update itself.
        self._pairs: list[Pair] = []
        self._averages: list[Tensor] = []
        self._values: list[Tensor] = []
        self._checked: list[Pair] = []
        self._copied: list[Pair] = []

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards the weights; the first update copies them."""
        if not self._pairs:
            self._link(model)
        updates = int(self.n_averaged)  # a tensor on the CPU
        if updates == 0:
            for average, value in self._pairs:
                average.copy_(value)
        else:
            self._update(1 - decay_after(updates, self.decay))
        self.n_averaged += 1

    def _update(self, weight: float) -> None:
        torch._foreach_lerp_(self._averages, self._values, weight)
        for average, value in self._checked:
            moved = torch.lerp(average, value, weight)
            average.copy_(torch.where(moved.isfinite(), moved, value))  # as in a causal mask
        for average, value in self._copied:
            average.copy_(value)

    def _link(self, model: nn.Module) -> None:
        """Finds the pairs of tensors, and how each of them is updated."""
        # They are finite, and faster to update together.
        finite = {id(parameter) for parameter in model.parameters()}
        for module in model.modules():
            if isinstance(module, _NormBase):
                finite.update(id(buffer) for buffer in module.buffers(recurse=False))
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            pair = (local_tensor(average).detach(), local_tensor(value).detach())
            self._pairs.append(pair)
            if not _is_averaged(value):
                self._copied.append(pair)
                continue
            if value.is_complex():
                pair = (torch.view_as_real(pair[0]), torch.view_as_real(pair[1]))
            if id(value) in finite:
                self._averages.append(pair[0])
                self._values.append(pair[1])
            else:
                self._checked.append(pair)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _is_averaged(tensor: Tensor) -> bool:
    """Whether a tensor is dense, and has real or complex numbers in float32 or better."""
    bytes_of_real = tensor.itemsize
    if tensor.is_complex():
        bytes_of_real //= 2
    has_fraction = tensor.is_floating_point() or tensor.is_complex()
    return has_fraction and bytes_of_real >= 4 and tensor.layout == torch.strided
