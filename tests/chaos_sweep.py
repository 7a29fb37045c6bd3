"""Kills a sweep, its trials or both at random moments, and compares the results.

The sweep is started again after each kill, until it ends. Its table, the metrics of all runs and
their last checkpoints must then be those of a sweep that was never interrupted, bit for bit.
`python tests/chaos_sweep.py --help` lists the options.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from chaos import PAYLOAD, checkpoint_values, metric_rows, print_report

TRIALS = 4
TARGETS = ("sweep", "trial", "both")
COMMAND = (
    sys.executable, str(PAYLOAD / "sweep.py"), "--config", str(PAYLOAD / "config/synthetic.yaml"),
    "--method=random", f"--trials={TRIALS}", "--jobs=2", "optimizer.lr=log(0.01, 0.3)",
    "optimizer.momentum=uniform(0, 0.95)", "seed=range(2)", "device=cpu", "data.batch_size=50",
    "trainer.max_steps=200", "model.name=networks.MLP", "checkpoint.every_steps=10",
    "logger.tensorboard=false",
)  # fmt: skip


class SweepChaos:
    """Kills sweeps, and records what went wrong.

    Args:
        folder: the folder of the sweeps; it becomes the working directory.
        seed: the random seed of the moments and of what is killed.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.counts = Counter[str]()
        self.errors: list[str] = []
        os.chdir(folder)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Starts or continues a sweep."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with Path(f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*COMMAND, f"--name={name}"], env=environment, stdout=log, stderr=log
            )

    def torment(self, name: str, kills: int, seconds: float) -> None:
        """Kills a sweep a number of times, or until it ends, and lets it end."""
        sweep = self.start(name)
        while self.counts["kills"] < kills:
            time.sleep(self.rng.uniform(0, seconds))
            if sweep.poll() is not None:
                break
            target = self.rng.choice(TARGETS)
            self._kill(sweep, target)
            self.counts["kills"] += 1
            self.counts[f"of the {target}"] += 1
            if target != "trial":
                sweep.wait()
                sweep = self.start(name)
        code = sweep.wait()
        if code:
            self.errors.append(f"{name}: exit code {code}: {Path(f'{name}.log').read_text()}")

    def _kill(self, sweep: subprocess.Popen[bytes], target: str) -> None:
        """Kills the sweep, one of its trials, or the sweep and all its trials."""
        children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
        trials = [int(child) for child in children]
        if target != "trial":
            sweep.kill()
        if target == "sweep" or not trials:
            return
        if target == "trial":
            trials = [self.rng.choice(trials)]
        for process in trials:
            with suppress(ProcessLookupError):  # it has ended
                os.kill(process, signal.SIGKILL)

    def compare(self, name: str, uninterrupted: str) -> None:
        """Records the differences between a sweep and the uninterrupted one."""
        if table_of(name) != table_of(uninterrupted):
            self.errors.append(f"{name}: the table differs:\n{Path(f'{name}.log').read_text()}")
        for expected in Path("runs", uninterrupted).glob("*/seed=*"):
            run = Path("runs", name, *expected.parts[2:])
            if metric_rows(str(run)) != metric_rows(str(expected)):
                self.errors.append(f"{run}: metrics.csv differs")
            file = "checkpoints/last.pt"
            if checkpoint_values(run / file) != checkpoint_values(expected / file):
                self.errors.append(f"{run}: {file} differs")


def table_of(name: str) -> list[list[str]]:
    """Returns the table that a sweep has printed at its end, without the training time."""
    lines = Path(f"{name}.log").read_text().splitlines()
    (rule,) = [number for number, line in enumerate(lines) if line and not line.strip("-")]
    heading = rule - 1
    end = lines.index("", rule)
    rows = [re.split(" {2,}", line.strip()) for line in lines[heading:end]]
    column = rows[0].index("minutes")
    return [row[:column] + row[column + 1 :] for row in rows]


def main() -> None:
    """Prints a table; the exit code is 1 if any result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="number of kills (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(PAYLOAD))
    started = time.monotonic()
    sweeps = 0
    with tempfile.TemporaryDirectory() as folder:
        chaos = SweepChaos(Path(folder), arguments.seed)
        if chaos.start("uninterrupted").wait():
            sys.exit(f"the sweep failed: {Path('uninterrupted.log').read_text()}")
        seconds = (time.monotonic() - started) / 4  # so that a sweep is killed a few times
        while chaos.counts["kills"] < arguments.kills and not chaos.errors:
            sweeps += 1
            chaos.torment(f"sweep{sweeps}", arguments.kills, seconds)
            chaos.compare(f"sweep{sweeps}", "uninterrupted")
        os.chdir("/")
    table = {"sweeps": sweeps, **chaos.counts, "wrong results": len(chaos.errors)}
    table["seconds"] = round(time.monotonic() - started)
    print_report(table, chaos.errors)
    sys.exit(bool(chaos.errors))


if __name__ == "__main__":
    main()
