"""Runs the benchmarks, prints their output, writes it to RESULTS.md, and plots docs/speed.png.

scaling.py is not included, since its processes take ten minutes to start and stop. Its tables are
in docs/scaling.md.
"""

import os
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from picture import PICTURE, RESULTS, draw

FOLDER = Path(__file__).resolve().parent
SCRIPTS = (
    "loop", "step", "accelerator", "data", "mapped", "recipes", "growth", "start", "saving",
    "checkpoints", "figures", "sweeps",
)  # fmt: skip


def machine() -> str:
    """Returns the processor, its number of cores, and the versions of the software."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    parts = [f"{os.cpu_count()} × {names[0] if names else platform.processor()}"]
    parts += [platform.system(), f"Python {platform.python_version()}"]
    return ", ".join([*parts, *(f"{name} {version(name)}" for name in ("torch", "torchvision"))])


def main() -> None:
    """Runs all scripts; with QUICK, in their short form and without writing results."""
    quick = bool(os.environ.get("QUICK"))
    begun = time.monotonic()
    command = "make bench"
    if "SEEDS" in os.environ:
        command += f" SEEDS={os.environ['SEEDS']}"
    text = f"# Results\n\n`{command}` on {date.today()}: {machine()}.\n"
    text += "The speed of the machine varies: compare numbers within a table only.\n"
    # Bytecode is cached, as it is for users; without it, each start takes twice as long.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    failed = []
    for name in SCRIPTS:
        print(f"\n== {name}, {time.monotonic() - begun:.0f} s since the start", flush=True)
        with subprocess.Popen(
            [sys.executable, "-u", FOLDER / f"{name}.py"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            failed.append(name)
            continue
        about = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1].strip()
        text += f"\n## {name}.py\n\n{about}\n\n```\n{''.join(lines).strip()}\n```\n"
    print(f"\nfinished in {time.monotonic() - begun:.0f} s")
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed; the results are not written")
    if not quick:
        RESULTS.write_text(text, encoding="utf-8")
        if os.environ.get("DATA_ROOT"):  # without the data there are no recipes to plot
            draw(text).savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
