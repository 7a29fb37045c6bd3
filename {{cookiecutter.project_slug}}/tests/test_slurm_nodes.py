"""slurm.sh saves before the time limit of a job, and resumes after a requeue."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import launcher
import pytest
from conftest import ROOT
from launcher import STARTED, free_port, wait_for_step
from stopped_runs import load
from test_nodes import OPTIONS, only_run, write_slow_training

end_started_processes = launcher.end_started_processes  # a fixture of all tests in this module
SLURM = ROOT / "slurm.sh"
pytestmark = [
    pytest.mark.skipif(not SLURM.exists(), reason="slurm.sh was deleted"),
    pytest.mark.skipif(not Path("/bin/bash").exists(), reason="bash is not installed"),
]
# Replacements of the commands of SLURM that slurm.sh calls.
SLURM_COMMANDS = {
    "srun": "until [[ $1 =~ ^(torchrun|python)$ ]]; do shift || exit 1; done\n"
    'echo $$ > step\nexec "$@"',
    "scontrol": '[ "$1" = show ] && echo 127.0.0.1 && echo other || echo "$@" >> requeued',
    "scancel": '[ "$*" = "--signal=TERM $SLURM_JOB_ID.0" ] && kill -TERM $(cat step)',
}


@pytest.fixture
def port() -> int:
    return free_port()


def set_up_slurm(folder: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the commands of SLURM, and sets the variables of a job on one machine."""
    for name, text in SLURM_COMMANDS.items():
        command = folder / name
        command.write_text(f"#!/bin/bash\n{text}\n")
        command.chmod(0o755)
    search_path = (str(folder), str(Path(sys.executable).parent), os.environ["PATH"])
    variables = {
        "SLURM_JOB_ID": str(port),
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "PATH": os.pathsep.join(search_path),
        "PYTHONPATH": str(ROOT),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_slurm_script_saves_before_the_time_limit_and_resumes_when_requeued(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without SLURM; docs/slurm.md of the template describes a test with it."""
    write_slow_training(tmp_path / "train.py")
    set_up_slurm(tmp_path, port, monkeypatch)
    command = ("/bin/bash", str(SLURM), *OPTIONS, "trainer.max_steps=60")
    script = subprocess.Popen(command)
    STARTED.append(script)
    wait_for_step(tmp_path, 10)
    script.send_signal(signal.SIGUSR1)
    script.wait(60)
    assert (tmp_path / "requeued").read_text() == f"requeue {port}\n"
    run = only_run(tmp_path)
    assert 10 <= load(run)["progress"]["step"] < 60

    assert subprocess.run(command, timeout=120).returncode == 0
    assert only_run(tmp_path) == run
    assert load(run)["progress"]["step"] == 60
    assert (tmp_path / "requeued").read_text() == f"requeue {port}\n"


WAITING_SWEEP = """
import signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
Path("arguments").write_text(" ".join(sys.argv[1:]))
time.sleep(60)
"""


def test_the_slurm_script_stops_a_sweep_before_the_time_limit(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweep.py").write_text(WAITING_SWEEP)
    set_up_slurm(tmp_path, port, monkeypatch)
    script = subprocess.Popen(["/bin/bash", str(SLURM), "sweep", "--name", "a b"])
    STARTED.append(script)
    for _ in range(600):
        if (tmp_path / "arguments").exists():
            break
        time.sleep(0.05)
    script.send_signal(signal.SIGUSR1)
    script.wait(60)
    assert (tmp_path / "arguments").read_text() == "--name a b"
    assert (tmp_path / "requeued").read_text() == f"requeue {port}\n"
