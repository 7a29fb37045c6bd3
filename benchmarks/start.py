"""The time until `train.py` finishes its first step, compared with `import torch`.

Both are whole processes, which alternate; the second one exits after its first step. It states how
long it took to read the data and to compute their statistics. The medians are printed, with the
lowest and highest difference between the two. The data are FashionMNIST if DATA_ROOT is set to its
folder, and synthetic otherwise.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
ROUNDS = 1 if os.environ.get("QUICK") else 9
FIRST_STEP = """
import builtins, os, time, train
usual = builtins.__import__
data = []
def timed(method):
    def call(*arguments, **options):
        start = time.perf_counter()
        result = method(*arguments, **options)
        data.append(time.perf_counter() - start)
        return result
    return call
def exit_after(method):
    def call(*arguments):
        method(*arguments)
        os.write(2, f"{sum(data)}".encode())
        os._exit(0)
    return call
def watch(name, *arguments, **options):
    module = usual(name, *arguments, **options)
    if name == "builders":
        from base.base_trainer import BaseTrainer
        BaseTrainer.update = exit_after(BaseTrainer.update)
        module.build_dataset = timed(module.build_dataset)
        module.fit_dataset = timed(module.fit_dataset)
        builtins.__import__ = usual
    return module
builtins.__import__ = watch
train.main()
raise SystemExit("train.py made no step")
"""


def seconds(code: str, *arguments: str) -> tuple[float, str]:
    """Returns the wall time of a Python process in the payload's folder, and its last line."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=PAYLOAD, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stderr.rpartition("\n")[2]


def main() -> None:
    """Prints one line."""
    data = "fashion_mnist" if os.environ.get("DATA_ROOT") else "synthetic"
    over = []
    alone = []
    reading = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS + 1):
            options = ("--config", f"config/{data}.yaml", "--run-dir", f"{folder}/{number}")
            import_only, _ = seconds("import torch")
            first_step, data_seconds = seconds(FIRST_STEP, *options)
            if number:  # the first round reads the files from the disk
                alone.append(import_only)
                reading.append(float(data_seconds))
                over.append(first_step - import_only)
    more = statistics.median(over)
    usual = statistics.median(alone)
    read = statistics.median(reading)
    print(f"import torch: {usual:.2f} s; to the first step on {data}: {more:+.2f} s (at most +0.8)")
    print(f"of which data: {read:.2f} s; all other: {more - read:+.2f} s (at most +0.1)")
    print(f"difference to import torch, min - max: {min(over):+.2f} - {max(over):+.2f} s")


if __name__ == "__main__":
    main()
