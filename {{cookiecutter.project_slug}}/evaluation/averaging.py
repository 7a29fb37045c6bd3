"""The average of the best checkpoints of a run: a checkpoint with the mean of their weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from builders import build_loader, restore_trainer
from evaluation.batch_norm_statistics import recompute_statistics
from storage.checkpoint_file import load_checkpoint, save_checkpoint
from storage.checkpointer import best_checkpoints
from storage.run_folder import find_checkpoints, is_run, locking, run_folder_of
from storage.state import evaluation_weights, load_weights
from utils.errors import UserError
from utils.nested import digest
from utils.ranks import world_size

REPLACED = ("moving_average", "optimizer_eval_weights")  # by the mean of the weights


def save_average(run: Path, count: int, settings: Sequence[str]) -> tuple[Path, list[int]]:
    """Saves the mean of the weights of the best checkpoints as ``average_N.pt``.

    Args:
        run: as for `select_best`.
        count: the number of checkpoints.
        settings: KEY=VALUE that replace settings of the run.

    Returns:
        The file, and the steps of the checkpoints.

    Raises:
        UserError: if the run has fewer of its best checkpoints, or there are several processes.
    """
    if world_size() > 1:
        raise UserError(
            f"--average {count} needs a single process; afterwards, several can evaluate "
            f"checkpoints/average_{count}.pt"
        )
    files = select_best(run, count)
    folder = run_folder_of(files[0])
    file = folder / f"checkpoints/average_{count}.pt"
    with locking(folder):
        state, differing = average_checkpoints(files)
        trainer, _ = restore_trainer(files[:1], "train", settings)
        load_weights(trainer.model, state["model"])
        loader = build_loader(trainer.settings, trainer.dataset, training=True)
        state["model"] = recompute_statistics(trainer, loader, differing)
        save_checkpoint(file, state)
    return file, state["averaged_steps"]


def select_best(run: Path, count: int) -> list[Path]:
    """The best checkpoints that `checkpoint.keep_best` has kept, the best first.

    Args:
        run: a run folder, a folder of runs, or ``last``.
        count: their number.

    Raises:
        UserError: if there are fewer, or `run` is a file.
    """
    if run.is_file():
        raise UserError(f"--average {count}: {run} is a file; name the run folder")
    folder = run_folder_of(find_checkpoints(run)[0])
    if not is_run(folder):
        raise UserError(f"--average {count}: {folder} is not a run folder")
    files = list(best_checkpoints(folder))
    if len(files) < count:
        advice = f"train with checkpoint.keep_best={count}"
        if len(files) > 1:
            advice += f", or use --average {len(files)}"
        raise UserError(
            f"--average {count}: {folder} has {len(files)} of its best checkpoints; {advice}"
        )
    return files[:count]


def average_checkpoints(files: Sequence[Path]) -> tuple[dict[str, Any], set[str]]:
    """The state of the best checkpoint with the mean of the weights that are evaluated.

    It has no state of an optimizer, so training cannot continue from it.

    Args:
        files: the checkpoints, the best first.

    Returns:
        The state, and the names of the tensors that differ between the checkpoints.

    Raises:
        UserError: if one of them is damaged.
    """
    states = list(map(load_checkpoint, files))
    weights = list(map(evaluation_weights, states))
    mean_weights = {}
    differing = set()
    for name in weights[0]:
        tensors = [member[name] for member in weights]
        mean_weights[name] = mean_tensor(tensors)
        if any(digest(tensor) != digest(tensors[0]) for tensor in tensors[1:]):
            differing.add(name)
    average = {}
    for name, value in states[0].items():
        if name not in REPLACED and not name.startswith("optimizers."):
            average[name] = value
    average["model"] = mean_weights
    average["averaged_steps"] = [state["progress"]["step"] for state in states]
    return average, differing


def mean_tensor(tensors: Sequence[Any]) -> Any:
    """The mean of tensors in their dtype.

    Of integers and booleans it is the first one, and of what a layer saves by `get_extra_state`.
    """
    first = tensors[0]
    if not isinstance(first, Tensor):
        return first
    if first.is_complex():
        dtype = torch.complex128
    elif first.is_floating_point():
        dtype = torch.float64
    else:
        return first
    return torch.stack(list(tensors)).to(dtype).mean(0).to(first.dtype)
