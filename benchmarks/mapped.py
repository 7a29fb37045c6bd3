"""Data in memory-mapped files: time to the first batch, memory, and speed.

Memory: 10^8 samples of 208 bytes in sparse files of 20.8 GB. The table shows the time from the
import of torch to the first shuffled batch, including the checks before training, and the memory of
the process: anonymous memory (RssAnon), and pages of the files (RssFile), which the system can
reclaim. Speed: 60,000 samples of 784 bytes and a class, batch 256, in random order, compared with
the same tensors in memory (torch gathers bytes more slowly than NumPy, which reads the maps). Disk:
files that are not in the page cache, with and without readahead hints to the system. The cases
alternate; the tables show medians.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"
# (the payload's modules are imported at run time)

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
BATCH = 256
WIDTH = 200  # bytes
SAMPLES = 10**8
SHARDS = 5
REPORTED_BATCHES = (0, 100, 200) if QUICK else (0, 100, 1_000, 3_000, 10_000)
ROUNDS = 1 if QUICK else 9
SMALL_SAMPLES = 60_000
DISK_SAMPLES = 300_000 if QUICK else 1_500_000
DISK_BATCHES = 10  # few, since reading caches the pages


class Tensors(BaseDataset):
    """Random images and classes, in memory."""

    title = "tensors"
    in_memory = True

    def __init__(self, count: int) -> None:
        rng = torch.Generator().manual_seed(0)
        self.inputs = torch.randint(256, (count, 784), generator=rng, dtype=torch.uint8)
        self.targets = torch.randint(10, (count,), generator=rng)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self.inputs[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> dict[str, Tensor]:
        return {"input": self.inputs[indices], "target": self.targets[indices]}


def make_sparse(folder: Path) -> float:
    """Creates sparse files of zeros; returns their size in GB."""
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


def memory() -> str:
    """Returns the anonymous and the file-backed memory of this process in MB, as text."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split() for line in lines}
    return "  ".join(f"{int(values[name][1]) / 1024:7.0f}" for name in ("RssAnon", "RssFile"))


def read_megabytes() -> float:
    """Returns how many MiB this process has read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    values = dict(line.split(": ") for line in lines)
    return int(values["read_bytes"]) / 2**20


def work(folder: Path) -> None:
    """Iterates over batches of the sparse files; prints times and memory."""
    print(f"{'torch imported':16s} {memory()}", flush=True)
    begun = time.perf_counter()
    loader = BatchLoader(Mapped(folder.parent, "train", 0, folder.name), BATCH, seed=0)
    loader.check()
    done = 0
    for mark in REPORTED_BATCHES:
        start = time.perf_counter()
        for _ in loader.steps(done, mark + 1):
            pass
        now = time.perf_counter()
        text = f"first batch in {now - begun:.2f} s"
        if mark:
            speed = (mark + 1 - done) * BATCH / (now - start)
            text = f"{speed:7,.0f} samples/s since the previous row"
        print(f"{f'batch {mark + 1:,}':16s} {memory()}  {text}", flush=True)
        done = mark + 1


def seconds(data: BaseDataset, workers: int) -> float:
    """Returns the time of one epoch of batches."""
    loader = BatchLoader(data, BATCH, 0, workers=workers)
    start = time.perf_counter()
    for _ in loader.steps(0, loader.steps_per_epoch):
        pass
    return time.perf_counter() - start


def compare(folder: Path) -> None:
    """Prints the throughput of mapped data and of the same data in memory."""
    tensors = Tensors(SMALL_SAMPLES)
    convert({"train": tensors}, folder / "small")
    mapped = Mapped(folder, "train", 0, "small")
    cases: dict[str, Callable[[], float]] = {"in memory": partial(seconds, tensors, 0)}
    cases |= {f"mapped, {n} workers": partial(seconds, mapped, n) for n in (0, 1, 2)}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, measure in cases.items():
            taken = measure()
            if number:  # the first round is a warm-up
                found[name].append(taken)
    print(f"\n{f'batches of {BATCH}':24s} samples per second  ratio to in memory")
    for name, times in found.items():
        pairs = zip(times, found["in memory"], strict=True)
        ratio = statistics.median(base / taken for taken, base in pairs)
        print(f"{name:24s} {SMALL_SAMPLES / statistics.median(times):18,.0f} {ratio:19.2f}")


def from_disk(folder: Path) -> None:
    """Prints the time of a batch whose samples are not in the page cache."""
    convert({"train": Tensors(DISK_SAMPLES)}, folder / "disk")
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
            before = read_megabytes()
            begun = time.perf_counter()
            for _ in BatchLoader(data, BATCH, number).steps(0, DISK_BATCHES):
                pass
            taken = (time.perf_counter() - begun) / DISK_BATCHES
            measures.append((1000 * taken, (read_megabytes() - before) / DISK_BATCHES))
    print(f"\n{f'{size:.1f} GB, not cached':24s} ms per batch  MB read per batch")
    for advises, measures in found.items():
        times, amounts = map(statistics.median, zip(*measures, strict=True))
        name = "with readahead hints" if advises else "without hints"
        print(f"{name:24s} {times:12.1f} {amounts:18.1f}")


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
