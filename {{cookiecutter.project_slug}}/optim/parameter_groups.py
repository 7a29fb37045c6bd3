"""Parameter groups: which arguments an optimizer uses for which parameters."""

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from utils.errors import UserError
from utils.parallel import layer_blocks

Group = dict[str, Any]


def parameter_groups(
    model: nn.Module,
    lr: float | None,
    patterns: Mapping[str, Mapping[str, Any]],
    no_decay: bool,
    layer_decay: float,
) -> list[Group]:
    """The parameters that require gradients, in groups with arguments of their own.

    Args:
        model: the network.
        lr: the learning rate of all other parameters; None if the optimizer has none.
        patterns: arguments by a pattern of the names of parameters; the first match counts.
        no_decay: whether parameters with fewer than two dimensions, which are biases and the
            weights of normalisation layers, get no weight decay.
        layer_decay: the learning rate of each layer relative to that of the next one (Howard and
            Ruder, arXiv:1801.06146).

    Returns:
        The groups, with ``params``. Those with arguments of their own have a ``name`` and are last.

    Raises:
        UserError: if there is no parameter to train, or a pattern matches none.
    """
    groups: dict[str, Group] = {"": {"params": []}}
    distances = _distances_to_last_layer(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        pattern = _first_match(name, patterns)
        arguments = dict(patterns.get(pattern, {}))
        labels = [pattern] if pattern else []
        if no_decay and parameter.ndim < 2 and "weight_decay" not in arguments:
            arguments["weight_decay"] = 0.0
            labels.append("no decay")
        if layer_decay != 1:
            distance = distances[name]
            highest_rate = arguments.get("lr", lr)
            if highest_rate is None:
                raise UserError("model.layer_decay: the optimizer has no argument `lr`")
            arguments["lr"] = highest_rate * layer_decay**distance
            labels.append(f"{distance} before the last layer")
        label = ", ".join(labels)
        if label not in groups:
            groups[label] = {"params": [], **arguments, "name": label}
        groups[label]["params"].append(parameter)
    _check_patterns(model, patterns)
    used_groups = [group for group in groups.values() if group["params"]]
    if not used_groups:
        raise UserError(_nothing_to_train(model))
    return used_groups


def _nothing_to_train(model: nn.Module) -> str:
    name = type(model).__name__
    frozen = len(list(model.parameters()))
    if frozen == 0:
        return f"{name} has no parameters, so there is nothing to train; add layers to it"
    return (
        f"all {frozen} parameters of {name} are frozen, so there is nothing to "
        "train; leave some out of model.freeze, and set requires_grad=True for them"
    )


def _first_match(name: str, patterns: Mapping[str, Any]) -> str:
    for pattern in patterns:
        if fnmatchcase(name, pattern):
            return pattern
    return ""


def _check_patterns(model: nn.Module, patterns: Mapping[str, Any]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        children = [f"{name}.*" for name, child in model.named_children() if [*child.parameters()]]
        candidates = [*children, *names]
        similar = difflib.get_close_matches(pattern, candidates, n=1) or candidates[:1]
        raise UserError(
            f"optimizer.groups: {pattern!r} matches no parameter; did you mean {similar[0]!r}?"
        )


def _distances_to_last_layer(model: nn.Module) -> dict[str, int]:
    """How many layers come after that of each parameter; parameters outside layers are first."""
    layers = [layer for layer in layer_blocks(model) if any(True for _ in layer.parameters())]
    layer_of = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters():
            layer_of[parameter] = index
    last = len(layers) - 1
    return {name: last - layer_of.get(parameter, 0) for name, parameter in model.named_parameters()}
