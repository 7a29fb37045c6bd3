"""Kills runs at random moments, resumes them, and compares what comes out with a run left alone.

Each run is a process of its own, forked from one that has imported torch already: so a hundred of
them take minutes. Half of the kills come from outside at any time, the others from within, at a
system call of a save. `python tests/chaos.py --help` says more.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
EVERY = 5  # steps between two checkpoints
IMAGES = {"TRAINING": 700, "VALIDATION": 100}
SETTINGS = (
    *("device=cpu", "data.batch_size=16", "trainer.epochs=3", "trainer.accumulate=2"),
    *("trainer.precision=fp32", "trainer.ema=0.9", "trainer.clip_norm=1", "trainer.early_stop=9"),
    *("optimizer.name=AdamW", "optimizer.lr=0.01", "scheduler.name=one_cycle"),
    *("logger.every_steps=3", f"checkpoint.every_steps={EVERY}", "model.width=4"),
)
CALLS = ((os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink"), (os, "open"))


class Chaos:
    """Runs that are killed.

    Args:
        folder: where the runs are.
        seed: what moments are drawn from.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.draws, self.counts, self.lost = random.Random(seed), Counter[str](), [0]
        self.wrong: list[str] = []
        self.steps = mmap.mmap(-1, 8)  # done by the process at work; shared with it
        os.chdir(folder)

    def train(self, run: str, workers: int, deadly_call: int = 0) -> int:
        """Starts a process that begins the run, or goes on with it; returns its number."""
        process = os.fork()
        if process:
            return process
        try:
            os.setsid()
            self._become_train(run, workers, deadly_call)
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        finally:  # of what the tests of the parent would do at the end
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
        errors = importlib.import_module("utils.errors")
        errors.run_command(importlib.import_module("train").main)

    def _arm(self, deadly_call: int) -> None:
        """Lets the process kill itself before or after one of the system calls of its saves."""
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

        for owner, name in CALLS:
            setattr(owner, name, deadly(getattr(owner, name)))

    def finish(self, process: int) -> int:
        """Waits for a process; its exit code, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def torment(self, run: str, kill: signal.Signals, seconds: float) -> None:
        """Kills and resumes one run until it is done."""
        while True:
            workers = self.draws.choice((0, 0, 0, 1, 2))
            within = kill == signal.SIGKILL and self.draws.random() < 0.5
            deadly = self.draws.randint(1, 150) if within else 0
            before = checkpoint_step(run)
            self.steps[:] = before.to_bytes(8, "little")
            process = self.train(run, workers, deadly)
            if not within:
                time.sleep(self.draws.uniform(0, seconds))
                group = self.draws.random() < 0.5 and os.getpgid(process) == process
                (os.killpg if group else os.kill)(process, kill)
            code = self.finish(process)
            after, done = checkpoint_step(run), int.from_bytes(self.steps, "little")
            self.counts["resumes"] += before > 0
            if code == 0:
                return
            self.counts[f"killed by {kill.name}"] += 1
            self.counts["of these within a save"] += within
            if code not in (-kill, 128 + kill):
                self.wrong.append(f"{run}: exit code {code}")
                return
            if after < before:
                self.wrong.append(f"{run}: step {before} was saved and is lost")
            self.lost.append(done - after)
            if code == 128 + kill and done != after:
                self.wrong.append(f"{run}: stopped after step {done}, and saved {after}")

    def compare(self, run: str, whole: str) -> None:
        """Notes how a run differs from the one that was left alone."""
        for name in ("last", "best"):
            found, wanted = (
                parts(Path(folder, f"checkpoints/{name}.pt")) for folder in (run, whole)
            )
            places = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
            self.wrong += [f"{run}: {name}.pt: {len(places)} parts differ: {places[:3]}"] * bool(
                places
            )
        if rows(run) != rows(whole):
            self.wrong.append(f"{run}: metrics.csv differs")
        if list(Path(run).rglob("*.unfinished")):
            self.wrong.append(f"{run}: half a file is left")
        if shown(run) != shown(whole):
            self.wrong.append(f"{run}: TensorBoard shows other steps")


def parts(file: Path) -> dict[str, str | bytes]:
    """All values in a checkpoint, to the last bit, by their places; but for the settings."""
    torch = importlib.import_module("torch")
    found: dict[str, str | bytes] = {}

    def visit(value: Any, place: str) -> None:
        if isinstance(value, torch.Tensor):
            found[place] = value.contiguous().numpy().tobytes()
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                visit(inner, f"{place}/{key}")
        else:
            found[place] = repr(value)

    state = importlib.import_module("storage.checkpoint_file").load_checkpoint(file)
    visit({key: value for key, value in state.items() if key != "settings"}, "")
    return found


def checkpoint_step(run: str) -> int:
    """The newest step that is saved; each file must be whole at any time."""
    load = importlib.import_module("storage.checkpoint_file").load_checkpoint
    return max((load(file)["step"] for file in Path(run).glob("checkpoints/*.pt")), default=0)


def rows(run: str) -> list[list[str]]:
    """metrics.csv without the speed."""
    with Path(run, "metrics.csv").open(newline="", encoding="utf-8") as file:
        speed = {"samples_per_second", "waiting_for_data"}
        return [row for row in csv.reader(file) if not speed & {*row}]


def shown(run: str) -> dict[str, list[int]]:
    """The steps that TensorBoard shows of each curve."""
    place = "tensorboard.backend.event_processing.event_accumulator"
    board = importlib.import_module(place).EventAccumulator(f"{run}/tensorboard").Reload()
    tags = [tag for tag in board.Tags()["scalars"] if "final" not in tag]
    return {tag: [event.step for event in board.Scalars(tag)] for tag in tags}


def prepare(steps: mmap.mmap) -> None:
    """Imports all that a run needs, makes the data small, and lets steps be counted."""
    sys.path.insert(0, str(PAYLOAD))
    for name in ("train", "builders", "trainer.classifier", "model.networks"):
        importlib.import_module(name)
    importlib.import_module("torch.utils.tensorboard")
    importlib.import_module("torch").set_num_threads(1)
    synthetic = importlib.import_module("data_loader.synthetic")
    for name, count in IMAGES.items():
        setattr(synthetic, name, count)
    trainer = importlib.import_module("trainer.classifier").Classifier
    update = trainer.update

    def counted(self: Any, batches: Any) -> None:
        update(self, batches)
        steps[:] = self.step.to_bytes(8, "little")

    trainer.update = counted


def unleash(folder: Path, kills: int, terms: int, seed: int) -> Chaos:
    """Kills and resumes runs until there were so many kills of each kind."""
    chaos = Chaos(folder, seed)
    prepare(chaos.steps)
    started = time.monotonic()
    if code := chaos.finish(chaos.train("whole", 0)):
        raise SystemExit(f"the run left alone ended with {code}; see {folder}/output.log")
    seconds, number = 0.6 * (time.monotonic() - started), 0
    for kill, wanted in ((signal.SIGKILL, kills), (signal.SIGTERM, terms)):
        while chaos.counts[f"killed by {kill.name}"] < wanted:
            number += 1
            chaos.torment(f"run{number}", kill, seconds)
            chaos.compare(f"run{number}", "whole")
            print(f"\r{number} runs, {dict(chaos.counts)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    chaos.counts["runs"] = number
    return chaos


def main() -> None:
    """Prints a table; leaves with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120, help="by SIGKILL; default 120")
    parser.add_argument("--terms", type=int, default=30, help="by SIGTERM; default 30")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        chaos = unleash(Path(folder), arguments.kills, arguments.terms, arguments.seed)
        os.chdir("/")
    table = {**chaos.counts, "wrong results": len(chaos.wrong), "most steps lost": max(chaos.lost)}
    table |= {"steps between checkpoints": EVERY, "seconds": round(time.monotonic() - started)}
    for name, value in table.items():
        print(f"{name:28}{value:6}")
    print("\n".join(chaos.wrong))
    sys.exit(bool(chaos.wrong) or max(chaos.lost) > EVERY)


if __name__ == "__main__":
    main()
