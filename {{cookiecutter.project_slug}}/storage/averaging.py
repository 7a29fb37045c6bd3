"""The average of several checkpoints of a run: a checkpoint with the mean of their weights."""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.checkpoint_file import load_checkpoint
from storage.checkpointer import best_checkpoints
from storage.run_folder import find_checkpoints, is_run, run_folder_of
from storage.state import evaluation_weights
from utils.errors import UserError

REPLACED = ("moving_average", "optimizer_eval_weights")  # by the mean of the weights


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
        raise UserError(
            f"--average {count}: {folder} has {len(files)} of its best checkpoints; train with "
            f"checkpoint.keep_best={count}, or use a smaller number"
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
    best = load_checkpoint(files[0])
    steps = []
    weights = []
    for file in files:
        saved = load_checkpoint(file)
        steps.append(saved["progress"]["step"])
        weights.append(evaluation_weights(saved))
    state = {}
    for name, value in best.items():
        if name not in REPLACED and not name.startswith("optimizers."):
            state[name] = value
    state["model"] = {}
    differing = set()
    for name in weights[0]:
        tensors = list(map(itemgetter(name), weights))
        state["model"][name] = mean_tensor(tensors)
        for tensor in tensors[1:]:
            if not torch.equal(tensors[0], tensor):
                differing.add(name)
    state["averaged_steps"] = steps
    return state, differing


def mean_tensor(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors in their dtype; of integers and booleans, the first one."""
    first = tensors[0]
    if first.is_complex():
        dtype = torch.complex128
    elif first.is_floating_point():
        dtype = torch.float64
    else:
        return first
    return torch.stack(list(tensors)).to(dtype).mean(0).to(first.dtype)


def average_file(run: Path, count: int) -> Path:
    """The file of the average of `count` checkpoints of a run."""
    return run / f"checkpoints/average_{count}.pt"
