"""The benchmarks run with the generated project and print all of their figures."""

import re
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE, needs_all, run

NUMBER = r" +[+-]?[\d,]*\.?\d+%? *"
# Lines that each script must print, for the scripts whose short form takes less than minutes.
LINES = {
    "accelerator": ("by hand", "torch-template", "by hand, compiled", "torch-template, compiled"),
    "data": ("indexed by hand", "BatchLoader, [012] workers", "DataLoader, [012] workers"),
    "growth": ("10,000 samples", "100,000,000 samples", "20 more logged scalars"),
    "mapped": ("in memory", "mapped, [012] workers", "without advice"),
    "saving": ("no save", "in the background"),
    "start": ("import torch:", "of which data:"),
    "step": ("convolution, backward", "between operators", "sum"),
    "checkpoints": ("    1,000,000",),
    "sweeps": ("shell loop", "sweep.py", "study.optimize"),
    "figures": ("train.py --help:", "train.py optimizer.lr=fast:"),
}


@needs_all
@pytest.mark.parametrize("script", LINES)
def test_a_benchmark_prints_all_its_figures(script: str, tmp_path: Path) -> None:
    done = run(
        sys.executable, TEMPLATE / f"benchmarks/{script}.py", cwd=tmp_path, QUICK="1", DEVICE="cpu"
    )
    assert done.returncode == 0, done.stdout
    for line in LINES[script]:
        assert re.search(f"^{line}{NUMBER}", done.stdout, re.MULTILINE), done.stdout
