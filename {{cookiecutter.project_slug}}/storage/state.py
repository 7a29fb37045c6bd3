"""Collects and restores the state of all objects of a trainer that have one."""

import copy
import inspect
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import Dataset

from utils.errors import UserError
from utils.nested import digest, map_tensors, named_tensors
from utils.parallel import is_sharded, match_layout
from utils.process_group import all_gather_object
from utils.ranks import rank, world_size

MAX_LISTED_PROBLEMS = 5
MAX_LINE_CHARACTERS = 150
SCHEDULED_OPTIONS = {"lr", "momentum", "betas"}  # what schedulers of torch change
PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, torch.dtype)


def stateful_objects(owner: Any) -> dict[str, Any]:
    """The attributes of an object that have a state, by name.

    The items of lists, tuples and dicts are included, as ``name.index`` or ``name.key``, but not
    those of a data set, which may have lists of millions of samples.

    An object has a state if it defines `state_dict`. If it also defines `load_rank_states`, its
    state differs between the processes of a run.
    """
    found: dict[str, Any] = dict(vars(owner))
    if not isinstance(owner, Dataset):
        found = {}
        for name, value in vars(owner).items():
            _add_items(name, value, found)
    objects: dict[str, Any] = {}
    for name, value in found.items():
        if not hasattr(value, "state_dict") or isinstance(value, type):
            continue
        is_wrapper = isinstance(value, DistributedDataParallel)  # the wrapped module is listed
        is_listed = any(value is other for other in objects.values())
        if not is_wrapper and not is_listed:
            objects[name] = value
    return objects


def _add_items(name: str, value: Any, found: dict[str, Any]) -> None:
    """Adds a value, or the items of a list, tuple or dict, however deep they are."""
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _add_items(f"{name}.{index}", item, found)
    elif isinstance(value, dict):
        for key, item in value.items():
            _add_items(f"{name}.{key}", item, found)
    else:
        found[name] = value


def _saved_names(owner: Any) -> Sequence[str]:
    """The names in `saved_attributes`.

    Raises:
        UserError: if there is no such attribute, or it is a text instead of a tuple.
    """
    names: Any = getattr(owner, "saved_attributes", ())
    kind = type(owner).__name__
    if isinstance(names, str):
        raise UserError(f"{kind}.saved_attributes must be a tuple of names: ({names!r},)")
    for name in names:
        if not hasattr(owner, name):
            raise UserError(
                f"{kind}.saved_attributes names {name!r}, which is no attribute; set it in the "
                "constructor"
            )
    return list(names)


def collect_state(owner: Any, excluded: Iterable[Any] = ()) -> dict[str, Any]:
    """The state of an object: of its `stateful_objects`, and its attributes in `saved_attributes`.

    Objects without anything to save, such as metrics between two evaluations, are left out. What
    differs between the processes of a run is under ``ranks``, for each process.

    Args:
        owner: the object, such as a trainer or a data set.
        excluded: objects that are left out, because others have them.
    """
    state: dict[str, Any] = {}
    local_states: dict[str, Any] = {}
    for name, part in _parts_of(owner, excluded).items():
        part_state = part.state_dict()
        if hasattr(part, "load_rank_states"):
            local_states[name] = part_state
        elif part_state:
            state[name] = part_state
    for name in _saved_names(owner):
        state[name] = getattr(owner, name)
    for name in _names_that_differ(owner, state):
        if name in state:
            local_states[name] = map_tensors(lambda tensor: tensor.cpu(), state.pop(name))
    state["ranks"] = all_gather_object(local_states)
    return state


def _parts_of(owner: Any, excluded: Iterable[Any]) -> dict[str, Any]:
    excluded_ids = {id(item) for item in excluded}
    parts = {}
    for name, part in stateful_objects(owner).items():
        if id(part) not in excluded_ids:
            parts[name] = part
    return parts


def _names_that_differ(owner: Any, state: Mapping[str, Any]) -> list[str]:
    """The names of states that differ between processes.

    Modules and optimizers are not compared: they are replicated or sharded.
    """
    if world_size() == 1:
        return []
    parts = stateful_objects(owner)
    digests = {}
    for name, part_state in state.items():
        if not isinstance(parts.get(name), nn.Module | Optimizer):
            digests[name] = digest(part_state)
    names: dict[str, None] = {}  # those of all processes, in their order
    all_digests = all_gather_object(digests)
    for process_digests in all_digests:
        names.update(dict.fromkeys(process_digests))
    differing = []
    for name in names:
        if len({process_digests.get(name) for process_digests in all_digests}) > 1:
            differing.append(name)
    return differing


def restore_state(
    owner: Any,
    state: Mapping[str, Any],
    same_optimizer: bool = True,
    restores_rates: bool = False,
    excluded: Iterable[Any] = (),
) -> None:
    """Restores what `collect_state` returned; objects that it does not contain stay as they are.

    Args:
        owner: the object whose attributes are restored.
        state: the saved state.
        same_optimizer: whether the optimizers are of the same class as the saved ones.
        restores_rates: whether the learning rates, and all that schedulers of torch change, come
            from the saved state and not from the settings.
        excluded: as for `collect_state`.

    Raises:
        UserError: if a state differs between processes, and their number is another one.
    """
    for name, part in _parts_of(owner, excluded).items():
        if hasattr(part, "load_rank_states"):
            rank_states = [states[name] for states in state["ranks"] if name in states]
            if rank_states:
                part.load_rank_states(rank_states)
            continue
        if not _is_saved(state, name):
            continue  # new in this run, such as a moving average
        part_state = _saved_state(state, name)
        if isinstance(part, Optimizer):
            if same_optimizer:
                _restore_optimizer(part, part_state, restores_rates)
        elif isinstance(part, nn.Module):
            load_weights(part, part_state)
        else:
            part.load_state_dict(part_state)
    for name in _saved_names(owner):
        if _is_saved(state, name):
            value = _saved_state(state, name)
            setattr(owner, name, _on_device_of(value, getattr(owner, name), owner))


def _is_saved(state: Mapping[str, Any], name: str) -> bool:
    return name in state or any(name in rank_state for rank_state in state["ranks"])


def _saved_state(state: Mapping[str, Any], name: str) -> Any:
    """The state with a name, which all processes or this one saved; empty if others did."""
    if name in state:
        return state[name]
    rank_states = state["ranks"]
    if len(rank_states) != world_size():
        raise UserError(
            f"{name} differs between the {len(rank_states)} processes of the saved run; resume it "
            "with that number of processes"
        )
    return rank_states[rank()].get(name, {})


def _on_device_of(value: Any, current: Any, owner: Any) -> Any:
    """A copy of a saved value, with its tensors on the devices of the current ones.

    A new tensor is on the device that all current ones share, else on that of the owner. A tensor
    that is trained stays the same object, because an optimizer refers to it.
    """
    current_tensors = dict(named_tensors(current))
    devices = {tensor.device for tensor in current_tensors.values()}
    device = getattr(owner, "device", torch.device("cpu"))
    if len(devices) == 1:
        (device,) = devices
    replacements: dict[int, Any] = {}
    for path, tensor in named_tensors(value):
        counterpart = current_tensors.get(path)
        if counterpart is not None and counterpart.requires_grad and counterpart.is_leaf:
            with torch.no_grad():
                counterpart.copy_(tensor)
            replacements[id(tensor)] = counterpart
        else:
            target = device
            if counterpart is not None:
                target = counterpart.device
            replacements[id(tensor)] = tensor.detach().clone().to(target)
    return copy.deepcopy(value, replacements)  # which takes these for copies that it has made


def check_plain(state: Any, path: str = "") -> None:
    """Checks that a checkpoint with this state can be read, because it is plain data.

    Raises:
        UserError: that names the first value of another type.
    """
    if type(state) in (dict, Counter, OrderedDict):
        for key, value in state.items():
            if type(key) not in (str, int):
                raise UserError(
                    f"the state {path!r} has a key of the type {type(key).__name__}, which a "
                    "checkpoint cannot contain; use texts or integers"
                )
            check_plain(value, f"{path} {key}".lstrip())
    elif type(state) in (list, tuple, set, torch.Size):
        for index, value in enumerate(state):
            check_plain(value, f"{path} {index}".lstrip())
    elif not isinstance(state, Tensor) and type(state) not in PLAIN_TYPES:
        raise UserError(
            f"the state {path!r} is {type(state).__name__}, which a checkpoint cannot contain; "
            "use tensors, numbers, texts, lists and dicts of them"
        )


@contextmanager
def preserve_state(owner: Any, excluded: Iterable[Any] = ()) -> Iterator[None]:
    """Afterwards, the state of an object is as it was before; see `collect_state`.

    A part that had nothing to save, such as metrics between two evaluations, is left as it is.
    """
    excluded = list(excluded)
    state = copy.deepcopy(collect_state(owner, excluded))
    try:
        yield
    finally:
        restore_state(owner, state, excluded=excluded)


def copy_to_host(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state on the CPU; sharded tensors stay on their devices.

    Tied weights are copied once.
    """
    copies: dict[Hashable, Tensor] = {}

    def copy_once(tensor: Tensor) -> Tensor:
        if is_sharded(tensor):
            return tensor.clone()
        layout = (tensor.dtype, tensor.shape, tensor.stride())
        key = (tensor.device, tensor.data_ptr(), layout)
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    host_state: dict[str, Any] = map_tensors(copy_once, state)
    return host_state


def load_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Loads a state dict into a model, which may be sharded.

    Raises:
        UserError: if names or shapes differ, with the first few of them.
    """
    reference = model.state_dict()
    placed = {name: match_layout(value, reference.get(name)) for name, value in weights.items()}
    try:
        model.load_state_dict(placed)
    except RuntimeError as error:  # its first line is a heading
        problems = str(error).splitlines()[1:]
        lines = [shorten(line, MAX_LINE_CHARACTERS) for line in problems[:MAX_LISTED_PROBLEMS]]
        if len(problems) > MAX_LISTED_PROBLEMS:
            lines.append(f"and {len(problems) - MAX_LISTED_PROBLEMS} more")
        text = "\n  ".join(lines)
        raise UserError(f"the checkpoint does not fit this model:\n  {text}") from error


def evaluation_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights to evaluate: the moving average if there is one, else those of the model.

    Some optimizers train other values than are to be evaluated; the checkpoint has both then.
    """
    if "moving_average" not in state:
        return dict(state.get("optimizer_eval_weights", state["model"]))
    prefix = "module."  # the averaged model is a part of torch's AveragedModel
    weights = {}
    for name, value in state["moving_average"].items():
        if name.startswith(prefix):
            weights[name.removeprefix(prefix)] = value
    return weights


def _restore_optimizer(
    optimizer: Optimizer, saved: Mapping[str, Any], restores_rates: bool
) -> None:
    """Restores the state of each parameter, and what an optimizer keeps in its groups.

    The arguments of the optimizer come from the settings, unless a scheduler has changed them.

    Raises:
        UserError: if the parameters are grouped in another way.
    """
    param_groups = optimizer.state_dict()["param_groups"]
    if _grouping(param_groups) != _grouping(saved["param_groups"]):
        raise UserError(
            "the parameter groups of the optimizer differ from those in the checkpoint; keep "
            "optimizer.groups, optimizer.no_decay, model.layer_decay and model.freeze as they were"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {}
    for index, saved_moments in saved["state"].items():
        parameter = parameters[index]
        moments[index] = {
            name: match_layout(value, parameter) for name, value in saved_moments.items()
        }
    from_settings = {"params", "name", *inspect.signature(type(optimizer)).parameters}
    if restores_rates:
        from_settings -= SCHEDULED_OPTIONS
    else:
        from_settings.add("initial_lr")
    for group, saved_group in zip(param_groups, saved["param_groups"], strict=True):
        for name, value in saved_group.items():
            if name not in from_settings:
                group[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": param_groups})


def _grouping(param_groups: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """The name of each group, and the number of its parameters."""
    return [(group.get("name", ""), len(group["params"])) for group in param_groups]
