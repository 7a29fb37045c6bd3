"""Several machines with a torchrun each: the same training, whichever of them leaves or comes."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import test_distributed
from conftest import CONFIG, QUICK, ROOT, SIZES
from test_distributed import STARTED, drift, ranks_of, rows, start, wait_for_step
from test_resume import checkpoint

no_process_is_left = test_distributed.no_process_is_left
# A model that adds little to differences by rounding, and a few of its steps change much.
QUIET = ("model={name: networks.MLP, width: 64}", "data.batch_size=200", "optimizer.lr=0.02")
CHANGES = (*QUIET, "scheduler.name=constant", "checkpoint.every_steps=5", "trainer.epochs=9999")
OPTIONS = ("--config", str(CONFIG), *QUICK, *CHANGES)
SLOWLY = f"""# train.py on little data, with steps that take long enough to do something meanwhile
import runpy, time
from data_loader import synthetic
from trainer.classifier import Classifier
vars(synthetic).update({SIZES})
step = Classifier.training_step
Classifier.training_step = lambda *given: time.sleep(0.05) or step(*given)
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
# A node that is silent for 5 s is gone, and others wait for it no longer than 1 s (not 15 and 30).
QUICKLY = "--rdzv-conf=last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def node(nodes: str, port: int, *arguments: object, restarts: int = 3) -> subprocess.Popen[str]:
    """Starts torchrun as on one of several machines; the first one keeps what they agree on."""
    place = ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=job 7")
    options = (f"--nnodes={nodes}", *place, f"--max-restarts={restarts}", QUICKLY)
    agent = start(1, *arguments, options=options)
    while agent.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return agent


def slowly(file: Path) -> Path:
    file.write_text(SLOWLY)
    return file


def ended(agent: subprocess.Popen[str], expected: int = 0) -> str:
    said, _ = agent.communicate(timeout=120)
    assert agent.returncode == expected, said
    return said


def run_in(folder: Path) -> Path:
    (run,) = (folder / "runs/synthetic").iterdir()
    return run


def wait_for_world(folder: Path, processes: int) -> None:
    """Waits until that many processes have got ahead with the run in `folder`."""
    wait_for_step(folder, 0)
    begun = checkpoint(run_in(folder))["step"]
    for _ in range(600):
        state = checkpoint(run_in(folder))
        if len(state["ranks"]) == processes and state["step"] > begun:
            return
        time.sleep(0.1)
    raise AssertionError(f"{processes} processes do not go on from step {begun}")


@pytest.fixture
def undisturbed(tmp_path: Path, train: Callable[..., int]) -> Callable[[], None]:
    """Checks the run against one process that trains as long at a stretch."""

    def check() -> None:
        run, whole = run_in(tmp_path), tmp_path / "whole"
        step = checkpoint(run)["step"]
        assert train(whole, *CHANGES, f"trainer.max_steps={step}") == 0
        assert drift(run, whole) < 5e-3
        found, wanted = (
            {key: value for key, value in rows(own).items() if key[2] != str(step)}
            for own in (run, whole)
        )
        assert len(found) > 10
        assert found == pytest.approx(wanted, rel=2e-3, abs=5e-3)  # a sample of 210 is 0.0048

    return check


def test_two_nodes_that_lose_a_process_go_on_to_the_same_weights(
    tmp_path: Path, port: int, undisturbed: Callable[[], None]
) -> None:
    options = (slowly(tmp_path / "slowly.py"), *OPTIONS, "trainer.max_steps=40")
    nodes = [node("2", port, *options), node("2", port, *options)]
    wait_for_step(tmp_path, 10)
    os.kill(ranks_of(nodes[1])[0], signal.SIGKILL)
    said = "".join(map(ended, nodes))
    run = run_in(tmp_path)
    assert said.count(f"run folder: runs/synthetic/{run.name}") == 2
    assert len(checkpoint(run)["ranks"]) == 2
    undisturbed()


def test_nodes_may_leave_and_come_back(
    tmp_path: Path, port: int, undisturbed: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # see the README
    options = ("1:2", port, slowly(tmp_path / "slowly.py"), *OPTIONS)
    first, second = node(*options), node(*options)
    wait_for_world(tmp_path, 2)
    second.terminate()
    ended(second, 1)
    wait_for_world(tmp_path, 1)
    second = node(*options)
    wait_for_world(tmp_path, 2)
    for process in (second.pid, *ranks_of(second)):
        os.kill(process, signal.SIGKILL)
    ended(second, -signal.SIGKILL)
    wait_for_world(tmp_path, 1)
    first.terminate()
    ended(first, 1)
    undisturbed()


def test_nodes_that_do_not_see_the_same_run_end_with_an_error(port: int, trained_run: Path) -> None:
    one = node("2", port, ROOT / "train.py", "--resume", trained_run, restarts=0)
    other = node("2", port, ROOT / "train.py", *OPTIONS, restarts=0)
    text = "error: processes go on from steps [0, 32]; all machines have to see the same run"
    for agent in (one, other):
        assert text in ended(agent, 1)


# What slurm.sh asks of SLURM: it starts a step, tells the machines' names, and sends signals.
SLURM = {
    "srun": 'while [ "$1" != torchrun ]; do shift || exit 1; done\necho $$ > step\nexec "$@"',
    "scontrol": '[ "$1" = show ] && echo 127.0.0.1 && echo other || echo "$@" >> requeued',
    "scancel": '[ "$*" = "--signal=TERM $SLURM_JOB_ID.0" ] && kill -TERM $(cat step)',
}


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash")
def test_the_slurm_script_saves_before_the_time_limit_and_goes_on_when_requeued(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SLURM's commands replaced; docs/slurm.md of the template has it run under SLURM."""
    slowly(tmp_path / "train.py")
    for name, text in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    places = (str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"])
    job = {"SLURM_JOB_ID": str(port), "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n[1-2]"}
    for name, value in {**job, "PATH": os.pathsep.join(places), "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)

    command = ("/bin/bash", str(ROOT / "slurm.sh"), *OPTIONS)
    script = subprocess.Popen([*command, "trainer.max_steps=60"])
    STARTED.append(script)
    wait_for_step(tmp_path, 10)
    script.send_signal(signal.SIGUSR1)
    script.wait(60)
    assert (tmp_path / "requeued").read_text() == f"requeue {port}\n"
    run = run_in(tmp_path)
    stopped = checkpoint(run)["step"]
    assert 10 <= stopped < 60
    assert subprocess.run([*command, "trainer.max_steps=60"], timeout=120).returncode == 0
    assert run_in(tmp_path) == run
    assert checkpoint(run)["step"] == 60
    assert (tmp_path / "requeued").read_text() == f"requeue {port}\n"
