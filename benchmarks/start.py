"""The time until `train.py` finishes its first step, compared with `import torch`.

Both are whole processes, which alternate; the second one exits after its first step. The medians
are printed. The data are FashionMNIST if DATA_ROOT is set to its folder, and synthetic otherwise.
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
raise SystemExit("train.py made no step")
"""


def seconds(code: str, *arguments: str) -> float:
    """Returns the wall time of a Python process in the payload's folder."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    subprocess.run(command, cwd=PAYLOAD, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Prints one line."""
    data = "fashion_mnist" if os.environ.get("DATA_ROOT") else "synthetic"
    over = []
    alone = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS + 1):
            options = ("--config", f"config/{data}.yaml", "--run-dir", f"{folder}/{number}")
            import_only = seconds("import torch")
            first_step = seconds(FIRST_STEP, *options)
            if number:  # the first round reads the files from the disk
                alone.append(import_only)
                over.append(first_step - import_only)
    more = statistics.median(over)
    usual = statistics.median(alone)
    print(f"import torch: {usual:.2f} s; to the first step on {data}: {more:+.2f} s (at most +0.8)")


if __name__ == "__main__":
    main()
