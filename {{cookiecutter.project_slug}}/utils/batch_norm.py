"""Batch normalisation over the samples of all processes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.errors import UserError
from utils.process_group import all_reduce_sum


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Lets the batch normalisation layers use the statistics of the whole batch.

    Raises:
        UserError: if a layer is of a subclass with its own `forward`, which would be lost.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module).forward not in REPLACEABLE:
            raise UserError(
                f"{name} is a {type(module).__name__}, a batch normalisation with its own forward, "
                "which several processes cannot use; call a layer of torch in a module instead"
            )
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = CPUSyncBatchNorm
    return model


class CPUSyncBatchNorm(_BatchNorm):
    """Synchronised batch normalisation on the CPU, which torch's SyncBatchNorm does not support."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises as one process with all samples would.

        Args:
            input: shape (N, C, ...); N may be 0 in some of the processes.

        Raises:
            ValueError: in training, if all processes together have one value per channel.
        """
        if not self.training:
            return super().forward(input)
        channels = input.shape[1]
        reduced_axes = [0, *range(2, input.ndim)]
        broadcast_shape = [1, channels] + [1] * (input.ndim - 2)
        values = input.to(torch.promote_types(input.dtype, torch.float32))

        # One exchange for the sums and the number of values.
        local_count = values.new_tensor([input.numel() / channels])
        totals = differentiable_all_reduce_sum(torch.cat([values.sum(reduced_axes), local_count]))
        count = totals[-1].detach()
        if count <= 1:
            raise ValueError("Expected more than 1 value per channel when training")
        mean = totals[:-1] / count
        centred = values - mean.reshape(broadcast_shape)
        squares = differentiable_all_reduce_sum(centred.square().sum(reduced_axes))
        variance = squares / count
        self._update_running_statistics(mean.detach(), variance.detach(), count)

        result = centred * (variance + self.eps).rsqrt().reshape(broadcast_shape)
        if self.affine:
            weight = self.weight.reshape(broadcast_shape)
            bias = self.bias.reshape(broadcast_shape)
            result = result * weight + bias
        return result.to(input.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum: Any = self.momentum
        if momentum is None:  # a cumulative average
            momentum = 1 / self.num_batches_tracked
        unbiased_variance = variance * count / (count - 1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased_variance, momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # the layer that this one replaces has checked it


REPLACEABLE = (_BatchNorm.forward, nn.SyncBatchNorm.forward, CPUSyncBatchNorm.forward)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        all_reduce_sum([total])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)


def differentiable_all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; gradients flow back to each of them."""
    apply: Any = _AllReduceSum.apply
    total: Tensor = apply(tensor)
    return total
