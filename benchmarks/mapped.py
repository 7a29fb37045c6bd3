"""Data in memory-mapped files: first batch, memory, and speed beside the same data in memory.

Memory: 10^8 samples, 208 bytes each, in sparse files of 20.8 GB: seconds until a process that has
imported torch has its first shuffled batch, the checks before training included, and what it holds
then and later: memory of its own (RssAnon) and pages of the files (RssFile, which the system takes
back when it needs them). Speed: 60,000 samples of 784 bytes and a class, batch 256, in random
order, mapped beside the same tensors indexed in memory (torch gathers bytes more slowly than NumPy,
which reads the maps); all in turn, the median of the rounds. From the disk: a file that is in no
cache, with and without telling the system what is read next.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"
# (it takes the payload's modules as they are run)

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PAYLOAD))

from base.base_dataset import BaseDataset  # noqa: E402
from base.batch_loader import BatchLoader  # noqa: E402
from data_loader.mapped import Mapped, convert  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
BATCH, WIDTH, SAMPLES, SHARDS = 256, 200, 10**8, 5
MARKS = (0, 100, 200) if QUICK else (0, 100, 1_000, 3_000, 10_000)  # batches
ROUNDS, SMALL = 1 if QUICK else 9, 60_000
# Samples in the file, and batches of them: few, as more are cached.
ON_DISK, COLD = 300_000 if QUICK else 1_500_000, 10


class Tensors(BaseDataset):
    """Random images and classes, in memory."""

    title = "tensors"
    in_memory = True
    uses_global_rng = False

    def __init__(self, count: int) -> None:
        draws = torch.Generator().manual_seed(0)
        self.inputs = torch.randint(256, (count, 784), generator=draws, dtype=torch.uint8)
        self.targets = torch.randint(10, (count,), generator=draws)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self.inputs[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> dict[str, Tensor]:
        return {"input": self.inputs[indices], "target": self.targets[indices]}


def make_sparse(folder: Path) -> float:
    """Files of zeros that take no room; their size in GB."""
    (folder / "train").mkdir(parents=True)
    rows = SAMPLES // SHARDS
    for number in range(SHARDS):
        for name, shape, kind in (("input", (rows, WIDTH), "u1"), ("target", (rows,), "i8")):
            file = folder / f"train/{number:05d}.{name}.npy"
            np.lib.format.open_memmap(file, "w+", np.dtype(kind), shape)
    about = {"title": "sparse", "classes": ["a"], "learned": {}, "like": {}}
    part = {"names": ["input", "target"], "samples": [rows] * SHARDS}
    (folder / "about.json").write_text(json.dumps({**about, "splits": {"train": part}}))
    return sum(file.stat().st_size for file in (folder / "train").iterdir()) / 1e9


def held() -> str:
    """Memory of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split() for line in lines}
    return "  ".join(f"{int(values[name][1]) / 1024:7.0f}" for name in ("RssAnon", "RssFile"))


def read_megabytes() -> float:
    """What this process has had read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1]) / 2**20


def work(folder: Path) -> None:
    """Goes through batches of the sparse files and prints what that takes."""
    print(f"{'torch imported':16s} {held()}", flush=True)
    begun = time.perf_counter()
    loader = BatchLoader(Mapped(folder.parent, "train", 0, folder.name), BATCH, seed=0)
    loader.check()
    done = 0
    for mark in MARKS:
        start = time.perf_counter()
        for _ in loader.steps(done, mark + 1):
            pass
        now = time.perf_counter()
        text = f"first batch in {now - begun:.2f} s"
        if mark:
            text = f"{(mark + 1 - done) * BATCH / (now - start):7,.0f} samples/s since then"
        print(f"{f'batch {mark + 1:,}':16s} {held()}  {text}", flush=True)
        done = mark + 1


def seconds(data: BaseDataset, workers: int) -> float:
    """How long an epoch of batches takes."""
    loader = BatchLoader(data, BATCH, 0, workers=workers)
    start = time.perf_counter()
    for _ in loader.steps(0, loader.steps_per_epoch):
        pass
    return time.perf_counter() - start


def compare(folder: Path) -> None:
    """Prints samples per second, mapped and in memory."""
    tensors = Tensors(SMALL)
    convert({"train": tensors}, folder / "small")
    mapped = Mapped(folder, "train", 0, "small")
    cases: dict[str, Callable[[], float]] = {"in memory": partial(seconds, tensors, 0)}
    cases |= {f"mapped, {n} workers": partial(seconds, mapped, n) for n in (0, 1, 2)}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, measure in cases.items():
            taken = measure()
            if number:  # the first round is not counted
                found[name].append(taken)
    print(f"\n{f'batches of {BATCH}':24s} samples a second  of those in memory")
    for name, times in found.items():
        pairs = zip(times, found["in memory"], strict=True)
        ratio = statistics.median(base / taken for taken, base in pairs)
        print(f"{name:24s} {SMALL / statistics.median(times):16,.0f} {ratio:19.2f}")


def from_disk(folder: Path) -> None:
    """Prints what a batch takes whose samples are in no cache."""
    convert({"train": Tensors(ON_DISK)}, folder / "disk")
    files = [*(folder / "disk/train").iterdir()]
    size = sum(file.stat().st_size for file in files) / 1e9
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for number in range(ROUNDS):
        for advises, measures in found.items():
            data = Mapped(folder, "train", 0, "disk")
            data.advises = advises
            for file in files:
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
            before, begun = read_megabytes(), time.perf_counter()
            for _ in BatchLoader(data, BATCH, number).steps(0, COLD):
                pass
            taken = (time.perf_counter() - begun) / COLD
            measures.append((1000 * taken, (read_megabytes() - before) / COLD))
    print(f"\n{f'{size:.1f} GB, not in memory':24s} ms a batch  MB read a batch")
    for advises, measures in found.items():
        times, amounts = map(statistics.median, zip(*measures, strict=True))
        name = "told what comes" if advises else "not told"
        print(f"{name:24s} {times:10.1f} {amounts:16.1f}")


def main() -> None:
    """Prints three tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        size = make_sparse(folder / "sparse")
        title = f"{SAMPLES:,} samples, {size:.1f} GB, batches of {BATCH}"
        print(f"{title}\n{'':16s} {'RssAnon':>7s}  {'RssFile':>7s}  (MB)", flush=True)
        subprocess.run([sys.executable, __file__, str(folder / "sparse")], check=True)
        compare(folder)
        from_disk(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]))
    else:
        main()
