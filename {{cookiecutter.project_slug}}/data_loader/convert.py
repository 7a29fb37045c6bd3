"""Writes data sets into the files that `data_loader.mapped.Mapped` reads.

``python -m data_loader.convert --help`` describes the command.
"""

import argparse
import json
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np
import torch
from numpy.lib import format as npy

from base.base_dataset import BaseDataset, Batch, Sample
from config.constructors import construct
from config.help import SettingsParser
from config.loading import load_settings
from config.reading import DEFAULT
from config.schema import DataSettings
from data_loader.mapped import ABOUT, About, Mapped, SplitInfo, TensorInfo, read_about
from logger.console import progress_bar
from utils.command import next_command, run_command
from utils.errors import USER_CODE_ERRORS, UserError, describe_error
from utils.files import sync_to_disk
from utils.nested import stack_samples
from utils.paths import path_argument
from utils.randomness import seed_everything
from utils.signals import exiting_on_signals

SAMPLES_PER_BLOCK = 64  # samples in memory during the conversion

Source = BaseDataset | Iterable[Sample]


def convert(
    splits: Mapping[str, Source],
    folder: Path,
    like: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Writes samples into a new folder for `Mapped`, a block at a time.

    The folder gets its name when it is complete and the samples read from it equal those of the
    data sets. If it already contains these data sets, nothing is written.

    Args:
        splits: data sets or other iterables of samples by split. All samples of a split need the
            same tensors, dtypes and shapes.
        folder: the new folder.
        like: class (``name``) and settings of the data sets, if they are of a class in
            data_loader/.
        state: title, classes and fitted statistics; by default the first data set's `state_dict`.

    Raises:
        UserError: if the folder contains something else, a split cannot be read or written, or its
            samples cannot be stored in arrays.
    """
    try:
        about = _describe(splits, folder.name, like or {}, state)
        if folder.exists():
            _check_already_converted(folder, about)
        else:
            _write_folder(folder, splits, about)
    except USER_CODE_ERRORS as error:
        raise UserError(f"{folder} cannot be written: {describe_error(error)}") from error


def _describe(
    splits: Mapping[str, Source],
    default_title: str,
    like: Mapping[str, Any],
    state: Mapping[str, Any] | None,
) -> About:
    """What about.json will contain, except for the splits."""
    hashes = {}
    for split, source in splits.items():
        if isinstance(source, BaseDataset):
            hashes[split] = source.fingerprint
            state = state or source.state_dict()
    fitted = dict(state or {})
    title = fitted.pop("title", default_title)
    classes = fitted.pop("classes", ())
    return About(
        title=title, classes=[*classes], fitted=fitted, like=dict(like), hashes=hashes, splits={}
    )


def _check_already_converted(folder: Path, about: About) -> None:
    """Raises a UserError if a folder contains anything but the described data sets."""
    existing = read_about(folder)
    expected = About.model_validate(json.loads(_to_json(about)))  # JSON has no tuples
    expected.splits = existing.splits
    # A split without a hash was converted from an iterable, which may yield other samples now.
    all_hashed = existing.splits.keys() == expected.hashes.keys()
    if existing != expected or not all_hashed:
        raise UserError(f"{folder} contains other data; delete it, or name another folder")


def _write_folder(folder: Path, splits: Mapping[str, Source], about: About) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # a killed process may have left it
    try:
        for split, source in splits.items():
            about.splits[split] = _write_split(unfinished / split, source)
        about_file = unfinished / ABOUT
        about_file.write_text(_to_json(about), "utf-8")
        sync_to_disk(about_file)
        for split, source in splits.items():
            _verify(unfinished, split, source)
        unfinished.replace(folder)
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _to_json(about: About) -> str:
    return json.dumps(about.model_dump(), indent=2)


def _write_split(folder: Path, source: Source) -> SplitInfo:
    """Writes ``NAME.npy`` for each tensor of the samples.

    The data are appended with ordinary writes, since the number of samples may be unknown. On a
    full disk, these raise an OSError; a write to a memory map would kill the process.
    """
    folder.mkdir(parents=True)
    info = SplitInfo(samples=0, tensors={})
    for batch in _read_batches(source, folder.name):
        arrays = {name: np.ascontiguousarray(values.numpy()) for name, values in batch.items()}
        tensors = {}
        for name, array in arrays.items():
            tensors[name] = TensorInfo(dtype=str(array.dtype), shape=array.shape[1:])
        if not info.tensors:
            info.tensors = tensors
            _write_headers(folder, info)
        if tensors != info.tensors:
            text = f"{folder.name}: all samples need the same tensors, dtypes and shapes, but there"
            raise UserError(f"{text} are {info.tensors} and {tensors}; make them equal")
        for name, array in arrays.items():
            with _file_of(folder, name).open("ab") as stream:
                stream.write(array.data)
        info.samples += len(next(iter(arrays.values())))
    _write_headers(folder, info)
    for name in info.tensors:
        sync_to_disk(_file_of(folder, name))
    return info


def _write_headers(folder: Path, info: SplitInfo) -> None:
    """Writes or replaces the headers, in which NumPy leaves room for any number of samples."""
    for name, tensor in info.tensors.items():
        header = {
            "descr": npy.dtype_to_descr(np.dtype(tensor.dtype)),
            "fortran_order": False,
            "shape": (info.samples, *tensor.shape),
        }
        file = _file_of(folder, name)
        file.touch()
        with file.open("r+b") as stream:
            npy.write_array_header_1_0(stream, header)


def _file_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _read_batches(source: Source, split: str) -> Iterator[Batch]:
    """Yields the samples of a split in order, in batches of `SAMPLES_PER_BLOCK`."""
    if isinstance(source, BaseDataset):
        starts = range(0, len(source), SAMPLES_PER_BLOCK)
        with progress_bar(len(starts), split) as bar:
            for start in starts:
                end = min(start + SAMPLES_PER_BLOCK, len(source))
                yield source.__getitems__(torch.arange(start, end))
                bar.update()
        return
    samples = iter(source)
    block = list(islice(samples, SAMPLES_PER_BLOCK))
    while block:
        yield stack_samples(block)
        block = list(islice(samples, SAMPLES_PER_BLOCK))


def _verify(folder: Path, split: str, source: Source) -> None:
    """Raises a UserError if the files are unusable or differ from the data set."""
    mapped = Mapped(folder.parent, split, seed=0, folder=folder.name)
    if isinstance(source, BaseDataset) and _probe_bytes(mapped) != _probe_bytes(source):
        text = f"{split}: samples read from the files differ from those of the data set"
        raise UserError(f"{text}; its samples must not change, and `like` must name its class")


def _probe_bytes(dataset: BaseDataset) -> dict[str, bytes]:
    """The content of representative samples, as they are and transformed."""
    batch = dataset.__getitems__(dataset.probe_indices)
    content = {}
    for name, values in batch.items():
        content[name] = values.numpy().tobytes()
    for name, values in dataset.transform(batch, None).items():
        content[f"transformed {name}"] = values.numpy().tobytes()
    return content


def main() -> None:
    """Converts all splits of the data set that the settings name."""
    parser = SettingsParser(description="Writes a data set into files for data.name=mapped.Mapped.")
    parser.add_argument("--config", type=path_argument, default=DEFAULT, metavar="FILE")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as in data.shift=2")
    parser.add_argument("folder", metavar="FOLDER", help="data.folder, in data.root")
    arguments = parser.parse_intermixed_args()
    if "=" in arguments.folder:
        parser.error(f"FOLDER is missing after {arguments.folder}")
    settings = load_settings(arguments.config, arguments.settings)
    seed_everything(settings.seed)
    data = settings.data
    splits: dict[str, BaseDataset] = {}
    for split in ("train", "validation", "test"):
        splits[split] = construct(
            data, BaseDataset, root=data.root, split=split, seed=settings.seed
        )
        if split == "train":
            splits[split].fit()
        splits[split].load_state_dict(splits["train"].state_dict())
    like = {"name": data.name, **data.model_dump(mode="json", include=set(data.arguments))}
    with exiting_on_signals():
        convert(splits, data.root / arguments.folder, like)
    print(f"train: {training_command(arguments, data)}")


def training_command(arguments: argparse.Namespace, data: DataSettings) -> str:
    """The command that trains from the files, without settings of the converted data set."""
    config = [] if arguments.config == DEFAULT else ["--config", arguments.config]
    replaced = {"data.name", *(f"data.{name}" for name in data.arguments)}
    kept = [text for text in arguments.settings if text.partition("=")[0] not in replaced]
    changes = ["data.name=mapped.Mapped", f"data.folder={arguments.folder}"]
    return next_command("train.py", *config, *kept, *changes)


if __name__ == "__main__":
    run_command(main)
