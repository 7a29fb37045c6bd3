"""Data that do not fit in memory: arrays in files that are mapped, and the command that makes them.

python -m data_loader.mapped --help
"""

import json
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from config.constructors import construct
from config.help import command_parser
from config.loading import DEFAULT, load_section, load_settings
from config.schema import DataSettings
from logger.console import progress_bar
from utils.errors import DATA_UNAVAILABLE, USER_CODE_ERRORS, UserError, explain, run_command
from utils.files import replace_file, sync
from utils.randomness import seed_everything

ABOUT = "about.json"
AGAIN = "delete the folder and make it anew by python -m data_loader.mapped"
BLOCK = 64  # samples that are converted at once
SHARD = 2**32  # bytes of a shard; its files stay open, and a process may have about 1,000
HELD = 2**28  # bytes of the files that may count as a process's own memory
AROUND = 2**16  # bytes that the system maps in with a sample

Source = BaseDataset | Iterable[Sample]


class Mapped(BaseDataset):
    """Samples in ``SPLIT/NNNNN.NAME.npy``, a file for each shard and each tensor of a sample.

    All else is as in the data set that they were made of, which ``about.json`` names: how samples
    are transformed and drawn, how inputs are read, and which of them are for validation, whatever
    the seed is now.

    `in_memory` stays false: workers wait for the disk while others compute; if it fails, or a file
    is cut short while it is read, the system kills who reads it, so it should not be the run; and
    what the other data set's `transform` draws from is not known.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no samples.
        seed: not used, as all choices were made before.
        folder: Folder in that one, which `python -m data_loader.mapped` has made.
        like: Settings of the mapped data set that are others now, as in {flip: false}.

    Raises:
        UserError: if files are not there, cut short, or not what about.json says.
    """

    def __init__(
        self, root: Path, split: str | None, seed: int, folder: str = "mapped", like: Any = None
    ) -> None:
        about, options = read_about(root / folder, like)
        self.original: BaseDataset | None = None
        if options:
            self.original = construct(options, BaseDataset, root=root, split=None, seed=seed)
            for name in ("collate", "read_inputs", "draw", "table"):
                if getattr(type(self), name) is getattr(BaseDataset, name):  # not a subclass's own
                    setattr(self, name, getattr(self.original, name))
        self.title, self.classes = about["title"], about["classes"]
        self.fitted = [*about["learned"]]
        if split is not None and split not in about["splits"]:
            raise UserError(f"{root / folder} holds no {split} split", DATA_UNAVAILABLE)
        self.part = about["splits"].get(split, {"names": [], "samples": []})
        self.folder = root / folder / str(split)
        self.bounds = np.cumsum([0, *self.part["samples"]], dtype=np.int64)
        self.load_state_dict({**about, **about["learned"]})
        size = sum(shard.nbytes for shards in self.shards.values() for shard in shards)
        self.advises = size > HELD and hasattr(mmap, "MADV_DONTNEED")  # Windows does not
        self.held = 0

    def __getstate__(self) -> dict[str, Any]:  # for a worker that does not inherit the maps
        return {name: value for name, value in vars(self).items() if name != "shards"}

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, index: int) -> Sample:
        return {k: v[0] for k, v in self.__getitems__(torch.tensor([index])).items()}

    def __getitems__(self, indices: Tensor) -> Batch:
        order = indices.argsort().numpy()
        places = indices.numpy()[order]
        if len(places) and not 0 <= places[0] <= places[-1] < len(self):
            raise IndexError(f"samples {places[0]} to {places[-1]} of {len(self)}")
        cuts = enumerate(pairwise(np.searchsorted(places, self.bounds).tolist()))
        found = [(k, places[a:b] - self.bounds[k], order[a:b]) for k, (a, b) in cuts if a < b]
        if self.advises:
            self._advise(found)
        batch = {}
        for name, shards in self.shards.items():
            values = np.empty((len(places), *shards[0].shape[1:]), shards[0].dtype)
            for k, rows, chosen in found:
                values[chosen] = shards[k][rows]
            batch[name] = torch.from_numpy(values)
        return batch

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        return batch if self.original is None else self.original.transform(batch, generator)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.original is not None:
            self.original.load_state_dict(state)

    @property
    def targets(self) -> Tensor:
        """Those of all samples, in memory: what `trainer.balanced` counts."""
        return torch.from_numpy(np.concatenate(self.shards["target"]))

    @cached_property
    def shards(self) -> dict[str, list[Any]]:
        """The files of each tensor, mapped."""
        found: dict[str, list[Any]] = {name: [] for name in self.part["names"]}
        for name, shards in found.items():
            for number, count in enumerate(self.part["samples"]):
                file = self.folder / f"{number:05d}.{name}.npy"
                try:
                    shards.append(npy.open_memmap(file, mode="r"))  # it never unpickles
                    wanted = f"{shards[0].dtype} {(count, *shards[0].shape[1:])}"
                    if (form := f"{shards[-1].dtype} {shards[-1].shape}") != wanted:
                        raise ValueError(f"it holds {form}, and should hold {wanted}")
                    torch.from_numpy(shards[-1][:0].copy())  # of a type that torch has
                except Exception as error:  # of what was made with ill intent, any
                    raise UserError(f"{file} cannot be used: {error}; {AGAIN}") from error
        return found

    def _advise(self, found: list[tuple[int, Any, Any]]) -> None:
        """Tells the system what is read next: all of it at once, and nothing around it.

        Else it would read 30 times as much, one sample after the other. What was read before is
        given back from time to time; the system would keep it as a part of this process's memory.
        """
        for shards in self.shards.values():
            for k, rows, _ in found:
                start, size = shards[k].offset % mmap.ALLOCATIONGRANULARITY, shards[k][0].nbytes
                for begin in (start + rows * size).tolist():
                    page = begin - begin % mmap.PAGESIZE
                    shards[k].base.madvise(mmap.MADV_WILLNEED, page, begin + size - page)
                self.held += len(rows) * (size + AROUND)
        if self.held > HELD:
            self.held = 0
            for shard in (shard for shards in self.shards.values() for shard in shards):
                shard.base.madvise(mmap.MADV_DONTNEED)


def read_about(folder: Path, changes: Any) -> tuple[dict[str, Any], Any]:
    """What is known of a folder, and the section that names the mapped data set, if there was one.

    Raises:
        UserError: if it is not there, damaged, or names no class of this project.
    """
    file = folder / ABOUT
    try:
        about = json.loads(file.read_text("utf-8"))
        _ = about["title"], about["classes"], about["learned"], about["splits"]
        like = about["like"] | (changes or {})
        return about, load_section("data", DataSettings, like) if like else None
    except FileNotFoundError as error:
        text = f"{file} is not there; python -m data_loader.mapped makes it, in a new folder"
        raise UserError(text, DATA_UNAVAILABLE) from error
    except (LookupError, TypeError, ValueError, UserError) as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{file}, or data.like, cannot be used ({text}); {AGAIN}") from error


def convert(
    splits: Mapping[str, Source], folder: Path, like: Any = None, state: Any = None
) -> None:
    """Writes samples of equal shapes into a new folder for `Mapped`, in bounded memory.

    It gets its name when it is complete and gives the samples that it was made of.

    Args:
        splits: data sets, or anything else that can be gone through, by split.
        folder: where to; if it holds just these data sets, nothing is done.
        like: the data sets' class (``name``) and settings, if there is one.
        state: title, classes and what was learned; by default, what the first data set has.

    Raises:
        UserError: if the folder is in use, or samples cannot be kept in arrays.
    """
    unfinished, hashes = folder.with_name(f"{folder.name}.unfinished"), dict[str, str]()
    try:
        for name, data in splits.items():
            if isinstance(data, BaseDataset):
                hashes[name], state = data.fingerprint, state or data.state_dict()
        learned = {"title": folder.name, "classes": (), **(state or {})}
        about = {"title": learned.pop("title"), "classes": learned.pop("classes")}
        about |= {"learned": learned, "like": like or {}, "hashes": hashes}
        if folder.exists():
            known, _ = read_about(folder, None)
            same = json.loads(json.dumps(about)).items() <= known.items()
            if same and {*known["splits"]} == {*hashes}:  # what else was converted is not known
                return
            raise UserError(f"{folder} holds other data; delete it, or name another folder")
        shutil.rmtree(unfinished, ignore_errors=True)
        parts = {name: _write(unfinished / name, data) for name, data in splits.items()}
        text = json.dumps(about | {"splits": parts}, indent=2)
        replace_file(unfinished / ABOUT, text.encode())
        for name, data in splits.items():
            mapped = Mapped(folder.parent, name, 0, unfinished.name)
            if isinstance(data, BaseDataset) and _look(mapped) != _look(data):
                raise UserError(f"{folder} cannot be made: {name} would give other samples")
        unfinished.replace(folder)
        sync(folder.parent)
    except USER_CODE_ERRORS as error:
        raise UserError(f"{folder} cannot be made: {explain(error)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _look(data: BaseDataset) -> list[tuple[str, bytes]]:
    """Samples that stand for all, as they are and transformed."""
    batch = data.__getitems__(data.probe_indices)
    both = [*batch.items(), *data.transform(batch, None).items()]
    return [(name, values.numpy().tobytes()) for name, values in both]


def _write(folder: Path, data: Source) -> dict[str, Any]:
    """Writes the shards of a split; returns the names of its tensors, and each shard's samples."""
    folder.mkdir(parents=True)
    counts, room, form = list[int](), 0, dict[str, Any]()
    for block in _blocks(data, folder.name):
        arrays = {name: np.ascontiguousarray(values.numpy()) for name, values in block.items()}
        found = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        if (form := form or found) != found:
            raise UserError(f"{folder.name}: samples must be alike; there are {form} and {found}")
        if room <= 0:
            counts, room = [*counts, 0], SHARD
        counts[-1] += len(next(iter(arrays.values())))
        for name, array in arrays.items():
            shape = {"shape": (counts[-1], *array.shape[1:])}
            file = folder / f"{len(counts) - 1:05d}.{name}.npy"
            file.touch()
            with file.open("r+b") as stream:  # in its header there is room for any number
                npy.write_array_header_1_0(stream, npy.header_data_from_array_1_0(array) | shape)
                stream.seek(0, os.SEEK_END)
                stream.write(array.data)
            room -= array.nbytes
    for file in folder.iterdir():
        sync(file)
    return {"names": [*form], "samples": counts}


def _blocks(data: Source, text: str) -> Iterator[Batch]:
    """Some samples at a time."""
    if not isinstance(data, BaseDataset):
        samples = iter(data)
        while some := list(islice(samples, BLOCK)):
            yield {name: torch.stack([sample[name] for sample in some]) for name in some[0]}
        return
    with progress_bar(-(-len(data) // BLOCK), text) as bar:
        for first in range(0, len(data), BLOCK):
            yield data.__getitems__(torch.arange(first, min(first + BLOCK, len(data))))
            bar.update()


def main() -> None:
    """Converts all splits of the data set that the settings name."""
    parser = command_parser("Writes a data set into files for data.name=mapped.Mapped.")
    parser.add_argument("--config", type=Path, default=DEFAULT, metavar="FILE")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as in data.shift=2")
    parser.add_argument("folder", metavar="FOLDER", help="data.folder, in data.root")
    arguments = parser.parse_intermixed_args()
    if "=" in arguments.folder:
        parser.error(f"FOLDER is missing behind {arguments.folder}")
    settings = load_settings(arguments.config, arguments.settings)
    seed_everything(settings.seed)
    data, splits = settings.data, dict[str, BaseDataset]()
    for split in ("train", "validation", "test"):
        splits[split] = construct(
            data, BaseDataset, root=data.root, split=split, seed=settings.seed
        )
        splits[split].load_state_dict(splits["train"].state_dict())
    like = {"name": data.name, **data.model_dump(mode="json", include={*data.arguments})}
    convert(splits, data.root / arguments.folder, like)
    print(f"train.py takes it by data.name=mapped.Mapped data.folder={arguments.folder}")


if __name__ == "__main__":
    run_command(main)
