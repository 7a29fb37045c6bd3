"""Kills runs at random moments, resumes them, and compares the results with an uninterrupted run.

Each run is a process that is forked from one that has already imported torch, so that a hundred of
them take minutes. Half of the SIGKILLs come from outside at any time; the others come from the
process itself, at a system call of a save. `python tests/chaos.py --help` lists the options.
"""

import argparse
import csv
import importlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
CHECKPOINT_INTERVAL = 5  # steps
IMAGES = {"TRAINING": 700, "VALIDATION": 100}
SETTINGS = (
    "device=cpu", "data.batch_size=16", "trainer.epochs=3", "trainer.accumulate=2",
    "trainer.precision=fp32", "trainer.ema=0.9", "trainer.clip_norm=1", "trainer.early_stop=9",
    "optimizer.name=AdamW", "optimizer.lr=0.01", "scheduler.name=one_cycle",
    "logger.every_steps=3", f"checkpoint.every_steps={CHECKPOINT_INTERVAL}", "model.width=4",
)  # fmt: skip
SAVE_CALLS = ((os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink"), (os, "open"))


class Chaos:
    """Kills and resumes runs, and records what went wrong.

    Args:
        folder: the folder of the runs; it becomes the working directory.
        seed: the random seed of the moments at which runs are killed.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.counts = Counter[str]()
        self.lost_steps = [0]
        self.errors: list[str] = []
        self.steps = mmap.mmap(-1, 8)  # completed steps, shared with the process that trains
        os.chdir(folder)

    def train(self, run: str, workers: int, deadly_call: int = 0) -> int:
        """Starts a process that starts or resumes the run; returns its process number."""
        process = os.fork()
        if process:
            return process
        try:
            os.setsid()
            self._become_train(run, workers, deadly_call)
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        finally:  # skips the exit handlers of the parent process
            os._exit(99)

    def _become_train(self, run: str, workers: int, deadly_call: int) -> None:
        log = os.open("output.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if deadly_call:
            self._arm(deadly_call)
        options = ["--resume", run]
        if not any(Path(run).glob("checkpoints/*.pt")):
            config = str(PAYLOAD / "config/synthetic.yaml")
            options = ["--config", config, "--run-dir", run, *SETTINGS]
        sys.argv = ["train.py", *options, f"data.workers={workers}"]
        command = importlib.import_module("utils.command")
        command.run_command(importlib.import_module("train").main)

    def _arm(self, deadly_call: int) -> None:
        """Makes the process kill itself before or after one of the system calls of its saves."""
        calls = [0]

        def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                calls[0] += 1
                if calls[0] == deadly_call and calls[0] % 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = original(*arguments, **named)
                if calls[0] == deadly_call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for owner, name in SAVE_CALLS:
            setattr(owner, name, deadly(getattr(owner, name)))

    def finish(self, process: int) -> int:
        """Waits for a process; returns its exit code, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def torment(self, run: str, kill: signal.Signals, seconds: float) -> None:
        """Kills and resumes one run until it finishes."""
        while True:
            workers = self.rng.choice((0, 0, 0, 1, 2))
            within_save = kill == signal.SIGKILL and self.rng.random() < 0.5
            deadly_call = self.rng.randint(1, 150) if within_save else 0
            before = checkpoint_step(run)
            self.steps[:] = before.to_bytes(8, "little")
            process = self.train(run, workers, deadly_call)
            if not within_save:
                self._kill(process, kill, seconds)
            code = self.finish(process)
            after = checkpoint_step(run)
            done = int.from_bytes(self.steps, "little")
            if before > 0:
                self.counts["resumes"] += 1
            if code == 0:
                return
            self.counts[f"killed by {kill.name}"] += 1
            if within_save:
                self.counts["of these within a save"] += 1
            if code not in (-kill, 128 + kill):
                self.errors.append(f"{run}: exit code {code}")
                return
            if after < before:
                self.errors.append(f"{run}: the checkpoint of step {before} is lost")
            self.lost_steps.append(done - after)
            if code == 128 + kill and done != after:
                self.errors.append(f"{run}: stopped after step {done}, but saved step {after}")

    def _kill(self, process: int, kill: signal.Signals, seconds: float) -> None:
        """Sends the signal after a random time, half of the time to the whole process group."""
        time.sleep(self.rng.uniform(0, seconds))
        if self.rng.random() < 0.5 and os.getpgid(process) == process:
            os.killpg(process, kill)
        else:
            os.kill(process, kill)

    def compare(self, run: str, uninterrupted: str) -> None:
        """Records the differences between a run and the uninterrupted one."""
        for name in ("last", "best"):
            found = checkpoint_values(Path(run, f"checkpoints/{name}.pt"))
            expected = checkpoint_values(Path(uninterrupted, f"checkpoints/{name}.pt"))
            keys = {**found, **expected}
            different = [key for key in keys if found.get(key) != expected.get(key)]
            if different:
                count = len(different)
                self.errors.append(f"{run}: {name}.pt: {count} values differ: {different[:3]}")
        if metric_rows(run) != metric_rows(uninterrupted):
            self.errors.append(f"{run}: metrics.csv differs")
        if list(Path(run).rglob("*.unfinished*")):
            self.errors.append(f"{run}: an incomplete file was left behind")
        if tensorboard_steps(run) != tensorboard_steps(uninterrupted):
            self.errors.append(f"{run}: TensorBoard shows other steps")


def checkpoint_values(file: Path) -> dict[str, str | bytes]:
    """Returns all values of a checkpoint by path, bit by bit, except for the settings."""
    torch = importlib.import_module("torch")
    found: dict[str, str | bytes] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value.contiguous().numpy().tobytes()
        elif isinstance(value, dict):
            for key, inner in value.items():
                visit(inner, f"{path}/{key}")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                visit(inner, f"{path}/{index}")
        else:
            found[path] = repr(value)

    state = importlib.import_module("storage.checkpoint_file").load_checkpoint(file)
    visit({key: value for key, value in state.items() if key != "settings"}, "")
    return found


def checkpoint_step(run: str) -> int:
    """Returns the newest saved step; raises an error if any checkpoint is damaged."""
    load = importlib.import_module("storage.checkpoint_file").load_checkpoint
    states = [load(file) for file in Path(run).glob("checkpoints/*.pt")]
    return max((state["progress"]["step"] for state in states), default=0)


def metric_rows(run: str) -> list[list[str]]:
    """Returns the rows of metrics.csv, except for those of the training speed."""
    with Path(run, "metrics.csv").open(newline="", encoding="utf-8") as file:
        speed = {"samples_per_second", "waiting_for_data", "peak_memory_gb"}
        return [row for row in csv.reader(file) if not speed & {*row}]


def tensorboard_steps(run: str) -> dict[str, list[int]]:
    """Returns the steps of each TensorBoard curve."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    board = importlib.import_module(module).EventAccumulator(f"{run}/tensorboard").Reload()
    tags = [tag for tag in board.Tags()["scalars"] if "final" not in tag]
    return {tag: [event.step for event in board.Scalars(tag)] for tag in tags}


def prepare(steps: mmap.mmap) -> None:
    """Imports what a run needs, makes the data small, and counts the steps in `steps`.

    The check before training makes the last step, too, but does not call `after_step`.
    """
    sys.path.insert(0, str(PAYLOAD))
    for name in ("train", "builders", "trainer.classifier", "model.networks"):
        importlib.import_module(name)
    importlib.import_module("torch.utils.tensorboard")
    importlib.import_module("torch").set_num_threads(1)
    synthetic = importlib.import_module("data_loader.synthetic")
    for name, count in IMAGES.items():
        setattr(synthetic, name, count)
    trainer = importlib.import_module("trainer.classifier").Classifier
    after_step = trainer.after_step

    def counted(self: Any, outputs: Any) -> None:
        made_steps: int = self.progress.step
        steps[:] = made_steps.to_bytes(8, "little")
        after_step(self, outputs)

    trainer.after_step = counted


def unleash(folder: Path, kills: int, terms: int, seed: int) -> Chaos:
    """Kills and resumes runs until each signal was sent the given number of times."""
    chaos = Chaos(folder, seed)
    prepare(chaos.steps)
    started = time.monotonic()
    code = chaos.finish(chaos.train("uninterrupted", 0))
    if code:
        raise SystemExit(f"the uninterrupted run ended with {code}; see {folder}/output.log")
    seconds = 0.6 * (time.monotonic() - started)
    number = 0
    for kill, wanted in ((signal.SIGKILL, kills), (signal.SIGTERM, terms)):
        while chaos.counts[f"killed by {kill.name}"] < wanted:
            number += 1
            chaos.torment(f"run{number}", kill, seconds)
            chaos.compare(f"run{number}", "uninterrupted")
            print(f"\r{number} runs, {dict(chaos.counts)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    chaos.counts["runs"] = number
    return chaos


def print_report(table: Mapping[str, int], errors: list[str]) -> None:
    """Prints the counts, one in a line, and the errors."""
    for name, value in table.items():
        print(f"{name:28}{value:6}")
    print("\n".join(errors))


def main() -> None:
    """Prints a table; the exit code is 1 if any result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120, help="number of SIGKILLs (default: 120)")
    parser.add_argument("--terms", type=int, default=30, help="number of SIGTERMs (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        chaos = unleash(Path(folder), arguments.kills, arguments.terms, arguments.seed)
        os.chdir("/")
    table = {
        **chaos.counts,
        "wrong results": len(chaos.errors),
        "most steps lost": max(chaos.lost_steps),
    }
    table |= {
        "steps between checkpoints": CHECKPOINT_INTERVAL,
        "seconds": round(time.monotonic() - started),
    }
    print_report(table, chaos.errors)
    sys.exit(bool(chaos.errors) or max(chaos.lost_steps) > CHECKPOINT_INTERVAL)


if __name__ == "__main__":
    main()
