"""The exponential moving average of a model's weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from utils.parallel import local_tensor


class MovingAverage(AveragedModel):
    """An exponential moving average of parameters and buffers; `module` is the averaged model.

    torch's own `update_parameters` waits for the device in each step; this one does not. Of a
    sharded model, each process averages its own part. Integer buffers are copied.

    Args:
        model: the model to average.
        decay: weight of the previous average in each update, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay
        # Pairs of tensors to update, found once: walking through both models takes as long as
        # the update itself.
        self._averages: list[Tensor] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards the weights; the first update copies them."""
        if not self._averages:
            self._averages = _local_values(self.module)
            self._values = _local_values(model)
        if self.n_averaged == 0:  # a tensor on the CPU
            torch._foreach_copy_(self._averages, self._values)
        else:
            self._update(self._averages, self._values)
        self.n_averaged += 1

    def _update(self, averages: list[Tensor], values: list[Tensor]) -> None:
        float_averages = []
        float_values = []
        for average, value in zip(averages, values, strict=True):
            if average.is_complex():
                float_averages.append(torch.view_as_real(average))
                float_values.append(torch.view_as_real(value))
            elif average.is_floating_point():
                float_averages.append(average)
                float_values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(float_averages, float_values, 1 - self.decay)


def _local_values(model: nn.Module) -> list[Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    return [local_tensor(tensor).detach() for tensor in tensors]
