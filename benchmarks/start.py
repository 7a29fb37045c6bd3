"""How long it takes until `train.py` makes its first step, beside `import torch` alone.

Both are whole processes, timed in turn; the second leaves when its first step is done. What is
printed is the median, with FashionMNIST if DATA_ROOT names its folder, else with synthetic data.
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
import builtins, os, train
usual = builtins.__import__
def watch(name, *arguments, **options):
    module = usual(name, *arguments, **options)
    if name == "builders":
        from base.base_trainer import BaseTrainer
        whole = BaseTrainer.update
        BaseTrainer.update = lambda *arguments: (whole(*arguments), os._exit(0))
        builtins.__import__ = usual
    return module
builtins.__import__ = watch
train.main()
raise SystemExit("there was no step")
"""


def seconds(code: str, *arguments: str) -> float:
    """Wall time of a Python process in the payload's folder."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, cwd=PAYLOAD, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Prints a line."""
    data = "fashion_mnist" if os.environ.get("DATA_ROOT") else "synthetic"
    over, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS + 1):
            options = ("--config", f"config/{data}.yaml", "--run-dir", f"{folder}/{number}")
            pair = seconds("import torch"), seconds(FIRST_STEP, *options)
            if number:  # the first one reads the files from the disk
                alone.append(pair[0])
                over.append(pair[1] - pair[0])
    more, usual = statistics.median(over), statistics.median(alone)
    print(f"import torch: {usual:.2f} s; to the first step on {data}: {more:+.2f} s (at most +0.8)")


if __name__ == "__main__":
    main()
