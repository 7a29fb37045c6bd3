"""The time of rendering, of `--help` and of settings errors.

Each is the median wall time of a whole process. Rendering into a new folder is given as a multiple
of the time that cookiecutter needs for an empty template; the two alternate, and the caches of
tools are left out. The goal for rendering is a factor of 1.5.
"""

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
PARTS = ("hooks", "{{cookiecutter.project_slug}}")
FILES = ("cookiecutter.json", "cookiecutter_2_1_or_newer_is_required.py")
QUICK = bool(os.environ.get("QUICK"))
EMPTY = {"project_slug": "my-project"}


def seconds(*command: str | Path, cwd: Path, code: int = 0) -> float:
    """Returns the wall time of a command, whose exit code must be `code`."""
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return elapsed


def median(measure: Callable[[], float], runs: int = 1 if QUICK else 7) -> float:
    """Returns the median of several measurements, after a warm-up."""
    measure()
    return statistics.median(measure() for _ in range(runs))


def main() -> None:
    """Prints one line for each figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = folder / "empty" / "{{cookiecutter.project_slug}}"
        empty.mkdir(parents=True)
        (empty / "README.md").write_text("empty\n")
        (folder / "empty" / "cookiecutter.json").write_text(json.dumps(EMPTY))
        template = folder / "template"
        for part in PARTS:
            caches = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis")
            shutil.copytree(TEMPLATE / part, template / part, ignore=caches)
        for file in FILES:
            shutil.copy(TEMPLATE / file, template)
        cookiecutter = Path(sys.executable).with_name("cookiecutter")
        options = ("--no-input", "--default-config", "--output-dir")

        numbers = itertools.count()

        def render(source: Path, *answers: str) -> float:
            # An old folder is not removed: ext4 creates files slowly after others were deleted.
            target = folder / f"{source.name} {next(numbers)}"
            return seconds(cookiecutter, *options, target, source, *answers, cwd=folder)

        for preset in ("minimal", "standard"):
            times: list[float] = []
            empty_times: list[float] = []
            for _ in range(3 if QUICK else 15):
                times.append(render(template, f"preset={preset}"))
                empty_times.append(render(folder / "empty"))
            print(
                f"rendering {preset}, as a multiple of an empty template: "
                f"{statistics.median(times) / statistics.median(empty_times):.2f} (at most 1.5); "
                f"the fastest of each: {min(times) / min(empty_times):.2f}"
            )

        project = next(folder.glob("template */my-project"))
        train = (sys.executable, "train.py")
        taken = median(lambda: seconds(*train, "--help", cwd=project))
        print(f"train.py --help: {taken:.2f} s (at most 3)")
        for wrong in ("trainer.epoch=3", "model.widht=3", "optimizer.lr=fast"):
            taken = median(lambda wrong=wrong: seconds(*train, wrong, cwd=project, code=2))  # type: ignore[misc]
            print(f"train.py {wrong}: {taken:.2f} s (at most 3)")


if __name__ == "__main__":
    main()
