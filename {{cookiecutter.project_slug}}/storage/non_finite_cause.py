"""The operation and the layer in which a non-finite value appears."""

import math
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from utils.nested import named_tensors
from utils.parallel import local_tensor
from utils.ranks import world_size

NAN_IN_BACKWARD = re.compile(r"Function '(\w+)' returned nan values")
FRAME = re.compile(r'File "(.+?)", line (\d+), in ')
LIBRARIES = "site-packages"  # a part of the paths of files that are not the project's own


def find_cause(trainer: Any, step: Any) -> str:
    """Repeats a step, and finds where a non-finite value appears first; empty if nowhere.

    The state of the trainer must be that before the step; it changes.

    Args:
        trainer: a `BaseTrainer`.
        step: the batches of the step, a `Step`.
    """
    layers = _LayerObserver()
    operations = _OperationObserver(layers)
    operation_in_backward = ""
    eager: Any = nullcontext()
    if trainer.options.compile:  # compiled code does not call the layers
        eager = torch.compiler.set_stance("force_eager")
    with eager, layers.observing(trainer.model), operations:
        if world_size() == 1:
            operation_in_backward = _update_with_anomaly_detection(trainer, step)
        else:  # an error in the backward pass of one process would let the others wait for it
            trainer.update(step)
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()  # an error leaves gradients behind
    if operations.cause:
        return operations.cause
    if layers.cause:  # an infinite gradient may become NaN later, which anomaly detection finds
        return layers.cause
    if operation_in_backward:
        return f"{operation_in_backward} returns NaN in the backward pass of {layers.backward}"
    return ""


def _update_with_anomaly_detection(trainer: Any, step: Any) -> str:
    """Makes a step; returns the operation whose gradient is NaN, and where it was called."""
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        try:
            trainer.update(step)
        except RuntimeError as error:
            match = NAN_IN_BACKWARD.search(str(error))
            if match is None:
                raise
            text = "".join(str(warning.message) for warning in caught)
            return match[1] + _innermost_place(FRAME.findall(text))
    return ""


def _innermost_place(frames: Iterable[tuple[str, int | str]]) -> str:
    """The last of the frames, file and line, in the project's own code; empty without one."""
    place = ""
    for file, line in frames:
        if LIBRARIES not in file and file != __file__:
            place = f" ({file}, line {line})"
    return place


class _LayerObserver:
    """Observes the passes of the layers of a model.

    Attributes:
        cause: the first layer after which a gradient is not finite; empty without one.
    """

    def __init__(self) -> None:
        self.cause = ""
        self._in_forward: list[str] = []  # from the outermost layer to the innermost one
        self._in_backward: list[str] = []
        self._outputs: dict[int, Tensor] = {}  # of inner layers; an outer one may return them, too

    @property
    def forward(self) -> str:
        """The innermost layer whose forward pass has begun."""
        if not self._in_forward:
            return "the loss"
        return self._in_forward[-1]

    @property
    def backward(self) -> str:
        """The layer whose backward pass has begun last, and has not ended."""
        if not self._in_backward:
            return "the loss"
        return self._in_backward[-1]

    @contextmanager
    def observing(self, model: nn.Module) -> Iterator[None]:
        """Within this context, the layers of a model are observed."""
        hooks = []
        for name, module in model.named_modules():
            layer = f"layer {name} ({type(module).__name__})"
            if not name:
                layer = f"the model ({type(module).__name__})"
            hooks.append(module.register_forward_pre_hook(partial(self._before_forward, layer)))
            hooks.append(module.register_forward_hook(partial(self._after_forward, layer)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before_forward(self, layer: str, _: nn.Module, inputs: Any) -> None:
        self._in_forward.append(layer)
        for _name, tensor in named_tensors(inputs):
            if tensor.requires_grad:
                tensor.register_hook(partial(self._end_backward, layer))

    def _after_forward(self, layer: str, _: nn.Module, inputs: Any, outputs: Any) -> None:
        self._in_forward.pop()
        for _name, tensor in named_tensors(outputs):
            if tensor.requires_grad and id(tensor) not in self._outputs:
                self._outputs[id(tensor)] = tensor
                tensor.register_hook(partial(self._begin_backward, layer))

    def _begin_backward(self, layer: str, gradient: Tensor) -> None:
        self._check(gradient)
        self._in_backward.append(layer)

    def _end_backward(self, layer: str, gradient: Tensor) -> None:
        self._check(gradient)
        if layer in self._in_backward:
            self._in_backward.remove(layer)

    def _check(self, gradient: Tensor) -> None:
        if not self.cause and _is_bad(gradient):
            self.cause = f"a gradient is not finite after the backward pass of {self.backward}"


class _OperationObserver(TorchFunctionMode):
    """Observes the operations outside the backward pass.

    Attributes:
        cause: the first operation that makes NaN or +inf of finite values; empty without one.
    """

    def __init__(self, layers: _LayerObserver) -> None:
        super().__init__()
        self.cause = ""
        self._layers = layers

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and checks its result."""
        arguments = [*args, *(kwargs or {}).values()]
        may_be_cause = not self.cause and torch.is_grad_enabled() and _are_finite(arguments)
        result = function(*args, **(kwargs or {}))
        if may_be_cause and _is_bad(result):
            frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_stack()]
            name = getattr(function, "__name__", str(function))
            place = _innermost_place(frames)
            self.cause = f"{name}{place} returns non-finite values in {self._layers.forward}"
        return result


def _are_finite(arguments: list[Any]) -> bool:
    """Whether there are tensors among the arguments of an operation, and all values are finite."""
    has_tensor = any(True for _ in named_tensors(arguments))
    has_infinity = any(isinstance(value, float) and math.isinf(value) for value in arguments)
    return has_tensor and not has_infinity and not _is_bad(arguments)


def _is_bad(value: Any) -> bool:
    """Whether a tensor of this process in a nested structure contains NaN or +inf.

    -inf does not count, because masks contain it on purpose.
    """
    for _, tensor in named_tensors(value):
        if tensor.is_floating_point():
            local = local_tensor(tensor)
            if bool((local.isnan() | local.isposinf()).any()):
                return True
    return False
