"""The cost of a sweep: the wall time of 20 short trials, compared with 20 commands in a shell loop.

A trial is a process of `train.py` with five steps of the example `bare`. One after another, the
same 20 settings are trained by a loop of the shell, by `sweep.py`, by a script that calls Optuna's
`study.optimize` with a subprocess as its objective, and by Hydra's multirun with the same
subprocess. The four alternate. A subprocess keeps the trials apart; a Hydra job that trains within
Hydra's own process saves the imports of all trials but the first. The columns are the median of the
rounds in seconds, and the median ratio to the loop of the same round.
"""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 1 if QUICK else 3
RATES = [round(0.001 * (number + 1), 3) for number in range(2 if QUICK else 20)]
CONFIG = PAYLOAD / "config/my_config.yaml"
SETTINGS = ("trainer.max_steps=5", "logger.tensorboard=false", "device=cpu")
TRAIN = [sys.executable, str(PAYLOAD / "train.py"), "--config", str(CONFIG), *SETTINGS]

BY_OPTUNA = f"""
import csv, optuna, subprocess
def objective(trial):
    rate = trial.suggest_categorical("optimizer.lr", {RATES})
    run = f"runs/{{trial.number}}"
    subprocess.run([*{TRAIN}, "--run-dir", run, f"optimizer.lr={{rate}}"], check=True)
    rows = csv.DictReader(open(run + "/metrics.csv"))
    return max(float(row["value"]) for row in rows if row["metric"] == "accuracy")
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(
    direction="maximize", sampler=optuna.samplers.GridSampler({{"optimizer.lr": {RATES}}}),
    storage=optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend("journal.log")))
study.optimize(objective, n_trials={len(RATES)})
"""
BY_HYDRA = f"""
import hydra, subprocess
@hydra.main(version_base=None, config_path=None)
def job(config):
    rate = config.rate
    subprocess.run([*{TRAIN}, "--run-dir", f"runs/{{rate}}", f"optimizer.lr={{rate}}"], check=True)
job()
"""


def by_shell(folder: Path) -> list[str]:
    """Returns a loop of the shell."""
    rates = " ".join(map(str, RATES))
    command = f'{shlex.join(TRAIN)} --run-dir "runs/$rate" optimizer.lr="$rate"'
    return ["sh", "-c", f"for rate in {rates}; do {command} || exit 1; done"]


def by_sweep(folder: Path) -> list[str]:
    """Returns the command of `sweep.py`."""
    options = ["--config", str(CONFIG), *SETTINGS, f"optimizer.lr={RATES}"]
    return [sys.executable, str(PAYLOAD / "sweep.py"), *options]


def by_optuna(folder: Path) -> list[str]:
    """Returns a script around `study.optimize`."""
    file = folder / "optimize.py"
    file.write_text(BY_OPTUNA)
    return [sys.executable, str(file)]


def by_hydra(folder: Path) -> list[str]:
    """Returns a multirun of Hydra."""
    file = folder / "job.py"
    file.write_text(BY_HYDRA)
    return [sys.executable, str(file), "-m", f"+rate={','.join(map(str, RATES))}"]


def seconds(command_in: Callable[[Path], list[str]]) -> float:
    """Returns the wall time of a command in a new folder; each must have trained all runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = command_in(folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        duration = time.perf_counter() - start
        runs = [*folder.rglob("metrics.csv")]
        assert len(runs) == len(RATES), runs
    return duration


def main() -> None:
    """Prints a table."""
    commands = {"shell loop": by_shell, "sweep.py": by_sweep, "study.optimize": by_optuna}
    if find_spec("hydra") is not None:
        commands["Hydra multirun"] = by_hydra
    times: dict[str, list[float]] = {name: [] for name in commands}
    seconds(by_shell)  # reads all files from the disk
    for _ in range(ROUNDS):
        for name, command_in in commands.items():
            times[name].append(seconds(command_in))
    print(f"{len(RATES)} trials        seconds   ratio   min - max")
    for name, measured in times.items():
        ratios = [own / loop for own, loop in zip(measured, times["shell loop"], strict=True)]
        ratio = f"{statistics.median(ratios):8.3f}  {min(ratios):.3f} - {max(ratios):.3f}"
        print(f"{name:16}{statistics.median(measured):9.1f}{ratio}")
    print("(sweep.py: at most 1.05)")


if __name__ == "__main__":
    main()
