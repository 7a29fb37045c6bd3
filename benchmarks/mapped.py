"""Data in memory-mapped files: time to the first batch, memory, and speed, mapped and in memory.

Memory: 10^8 samples of 208 bytes in sparse files of 20.8 GB. The time from `import torch` to the
first shuffled batch includes the checks before training. RssAnon is memory that only the process
can free. RssFile is the size of the mapped pages of files, which the system takes back when memory
is short.

Speed: 60,000 samples of 784 bytes and a class, in random order. The same tensors are indexed in
memory for comparison. All cases run in turn; the medians of the rounds are printed.

From the disk: random batches of a file that is not cached. `Mapped` asks the system to read all
samples of a batch at the same time; the second row is without that advice.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"
# (the payload's modules are imported from its folder)

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
from data_loader import mapped  # noqa: E402
from data_loader.convert import convert  # noqa: E402
from data_loader.mapped import Mapped  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
BATCH_SIZE = 256
SPARSE_SAMPLES = 10**8
SPARSE_WIDTH = 200  # bytes of an input
CACHED_SAMPLES = 60_000
COLD_BATCHES = 10  # few, since each leaves more of the file in the cache
if QUICK:
    REPORTED_BATCHES = [0, 100, 200]
    ROUNDS = 1
    COLD_SAMPLES = 300_000
else:
    REPORTED_BATCHES = [0, 100, 1_000, 3_000, 10_000]
    ROUNDS = 9
    COLD_SAMPLES = 1_500_000


class Tensors(BaseDataset):
    """Random images and classes, in memory."""

    title = "tensors"
    in_memory = True
    uses_global_rng = False

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


def write_sparse_files(folder: Path) -> float:
    """Writes files of zeros that take no space on the disk; returns their size in GB."""
    (folder / "train").mkdir(parents=True)
    shapes = {"input": [SPARSE_WIDTH], "target": []}
    dtypes = {"input": "uint8", "target": "int64"}
    tensors = {}
    size = 0
    for name, shape in shapes.items():
        file = folder / f"train/{name}.npy"
        dtype = np.dtype(dtypes[name])
        np.lib.format.open_memmap(file, "w+", dtype, (SPARSE_SAMPLES, *shape))
        tensors[name] = {"dtype": dtypes[name], "shape": shape}
        size += file.stat().st_size
    train = {"samples": SPARSE_SAMPLES, "tensors": tensors}
    about = {"title": "sparse", "classes": ["a"], "fitted": {}, "like": {}}
    about["splits"] = {"train": train}
    (folder / "about.json").write_text(json.dumps(about))
    return size / 1e9


def read_status(file: str, name: str) -> int:
    """A number from a file in /proc/self, such as VmRSS in `status`."""
    for line in Path(f"/proc/self/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(f"/proc/self/{file} has no line {name}")


def resident_memory() -> str:
    """RssAnon and RssFile of this process in MB, in two columns."""
    anonymous = read_status("status", "RssAnon") / 1024
    mapped_pages = read_status("status", "RssFile") / 1024
    return f"{anonymous:7.0f}  {mapped_pages:7.0f}"


def read_sparse_files(folder: Path) -> None:
    """Reads shuffled batches and prints the memory of this process and the speed."""
    print(f"{'torch imported':16s} {resident_memory()}", flush=True)
    start = time.perf_counter()
    loader = BatchLoader(Mapped(folder.parent, "train", 0, folder.name), BATCH_SIZE, seed=0)
    loader.check()
    for _ in loader.steps(0, 1):
        pass
    seconds = time.perf_counter() - start
    print(f"{'batch 1':16s} {resident_memory()}  first batch in {seconds:.2f} s", flush=True)
    done = 1
    for batch in REPORTED_BATCHES[1:]:
        start = time.perf_counter()
        for _ in loader.steps(done, batch + 1):
            pass
        seconds = time.perf_counter() - start
        rate = (batch + 1 - done) * BATCH_SIZE / seconds
        done = batch + 1
        text = f"{rate:7,.0f} samples/s since then"
        print(f"{f'batch {done:,}':16s} {resident_memory()}  {text}", flush=True)


def measure_epoch(dataset: BaseDataset, workers: int) -> float:
    """Seconds that the batches of an epoch take."""
    loader = BatchLoader(dataset, BATCH_SIZE, 0, workers=workers)
    start = time.perf_counter()
    for _ in loader.steps(0, loader.steps_per_epoch):
        pass
    return time.perf_counter() - start


def compare_with_memory(folder: Path) -> None:
    """Prints samples per second, mapped and in memory."""
    tensors = Tensors(CACHED_SAMPLES)
    convert({"train": tensors}, folder / "cached")
    cached = Mapped(folder, "train", 0, "cached")
    cases: dict[str, Callable[[], float]] = {"in memory": partial(measure_epoch, tensors, 0)}
    for workers in (0, 1, 2):
        cases[f"mapped, {workers} workers"] = partial(measure_epoch, cached, workers)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, measure in cases.items():
            taken = measure()
            if number > 0:  # the first round is a warm-up
                seconds[name].append(taken)
    print(f"\n{f'batches of {BATCH_SIZE}':24s} samples a second  relative to memory   min - max")
    for name, times in seconds.items():
        pairs = zip(seconds["in memory"], times, strict=True)
        ratios = [base / taken for base, taken in pairs]
        print(
            f"{name:24s} {CACHED_SAMPLES / statistics.median(times):16,.0f} "
            f"{statistics.median(ratios):19.2f}  {min(ratios):.2f} - {max(ratios):.2f}"
        )


def drop_from_cache(file: Path) -> None:
    """Removes a file's pages from the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure_cold_batches(folder: Path, seed: int) -> tuple[float, float]:
    """Milliseconds and megabytes read per batch, of files that are not cached."""
    for file in (folder / "train").iterdir():
        drop_from_cache(file)
    dataset = Mapped(folder.parent, "train", 0, folder.name)
    bytes_before = read_status("io", "read_bytes")
    start = time.perf_counter()
    for _ in BatchLoader(dataset, BATCH_SIZE, seed).steps(0, COLD_BATCHES):
        pass
    milliseconds = 1000 * (time.perf_counter() - start)
    megabytes = (read_status("io", "read_bytes") - bytes_before) / 2**20
    return milliseconds / COLD_BATCHES, megabytes / COLD_BATCHES


def compare_advice(folder: Path) -> None:
    """Prints what random batches from the disk cost with and without advice to the system."""
    convert({"train": Tensors(COLD_SAMPLES)}, folder / "cold")
    size = sum(file.stat().st_size for file in (folder / "cold/train").iterdir()) / 1e9
    prefetch = mapped._prefetch
    cases = {"with advice": prefetch, "without advice": lambda array, positions: None}
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for number in range(ROUNDS):
        for name, function in cases.items():
            mapped._prefetch = function
            results[name].append(measure_cold_batches(folder / "cold", number))
    mapped._prefetch = prefetch
    print(f"\n{f'{size:.1f} GB, not cached':24s} ms a batch  MB read a batch")
    for name, measurements in results.items():
        milliseconds = statistics.median(time for time, _ in measurements)
        megabytes = statistics.median(amount for _, amount in measurements)
        print(f"{name:24s} {milliseconds:10.1f} {megabytes:16.1f}")


def main() -> None:
    """Prints three tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        size = write_sparse_files(folder / "sparse")
        print(f"{SPARSE_SAMPLES:,} samples, {size:.1f} GB, batches of {BATCH_SIZE}")
        print(f"{'':16s} {'RssAnon':>7s}  {'RssFile':>7s}  (MB)", flush=True)
        # In a process of its own, whose memory contains nothing else.
        subprocess.run([sys.executable, __file__, str(folder / "sparse")], check=True)
        compare_with_memory(folder)
        compare_advice(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read_sparse_files(Path(sys.argv[1]))
    else:
        main()
