"""The study of a sweep: which trial a worker runs, successive halving, the objective, devices."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import filelock
import pytest
from conftest import CONFIG
from run_folders import write_run

from config.loading import load_settings
from config.schema import Settings
from experiments import devices
from experiments.devices import find_devices, job_variables
from experiments.halving import Candidate, Stage, find_stage
from experiments.metric import HIGHEST, LOWEST
from experiments.objective import Objective, count_validations, find_objective
from experiments.spare_process import SpareProcess
from experiments.sweep_plan import SweepPlan, make_plan, save_plan
from experiments.trials import ERROR, RunProcess, TrialRun, child_processes
from utils.errors import LOST_CONNECTION, UserError

ACCURACY = Objective("accuracy", HIGHEST)
needs_optuna = pytest.mark.skipif(
    find_spec("optuna") is None, reason="Optuna is not installed; pip install -e '.[sweep]'"
)


def new_plan(folder: Path, *ranges: str, **options: Any) -> SweepPlan:
    """A plan whose folder exists."""
    plan = make_plan({"config": CONFIG, "name": folder.name, **options}, ranges)
    plan.folder.mkdir(parents=True, exist_ok=True)
    save_plan(plan)
    return plan


# Claiming trials


@needs_optuna
def test_workers_share_the_trials_and_a_dead_one_releases_its_trial(tmp_path: Path) -> None:
    from experiments.study import SweepStudy

    plan = new_plan(tmp_path / "a", "model.width=[4,8,16]")
    one = SweepStudy(plan, ACCURACY)
    other = SweepStudy(plan, ACCURACY)
    first = one.claim()
    second = other.claim()
    assert first is not None
    assert second is not None
    assert (first.values, second.values) == ({"model.width": 4}, {"model.width": 8})
    one.finish(first, 0.5)
    second.lock.release()  # as the system does when the process ends
    again = one.claim()
    third = one.claim()
    assert again is not None
    assert third is not None
    assert (again.index, again.values) == (1, {"model.width": 8})
    assert third.values == {"model.width": 16}
    assert other.claim() is None
    one.fail(again, "out of memory")
    one.release(third)
    third = other.claim()
    assert third is not None
    assert not other.is_complete()
    other.finish(third, 0.7)
    assert one.is_complete()
    assert one.best_trial() == (2, 0.7)
    assert list(other.failed_trials()) == [1]
    other.remove(other.failed_trials())
    repeated = one.claim()
    assert repeated is not None
    assert (repeated.index, repeated.values) == (1, {"model.width": 8})


@needs_optuna
def test_a_database_releases_the_trial_of_a_worker_without_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments import study, study_storage

    monkeypatch.setattr(study_storage, "HEARTBEAT_SECONDS", 1)
    plan = new_plan(tmp_path / "a", "model.width=[4,8]", storage="sqlite:///a.db")
    one = study.SweepStudy(plan, ACCURACY)
    other = study.SweepStudy(plan, ACCURACY)
    first = one.claim()
    second = one.claim()
    assert first is not None
    assert second is not None
    first.lock.release()
    assert other.claim() is None
    claimed = None
    while claimed is None:
        time.sleep(0.5)
        one.record_heartbeat(second.trial)
        claimed = other.claim()
    assert (claimed.index, claimed.values) == (0, {"model.width": 4})
    assert other.claim() is None
    other.finish(claimed, 0.5)
    one.finish(first, 0.9)  # it was not dead, but slow
    one.finish(second, 0.6)
    assert one.is_complete()
    assert one.best_trial() == (1, 0.6)


def on_another_machine(plan: SweepPlan) -> SweepPlan:
    """The same plan on a machine without a shared folder."""
    folder = plan.folder.with_name("other")
    folder.mkdir()
    return replace(plan, folder=folder)


@needs_optuna
def test_a_trial_that_is_lost_while_optuna_replaces_it_is_added_again(tmp_path: Path) -> None:
    """As if a worker had been killed between the failure of a silent trial and its retry."""
    from optuna.trial import TrialState

    from experiments.study import SweepStudy

    plan = new_plan(tmp_path / "a", "model.width=[4,8,16]", storage="sqlite:///a.db")
    one = SweepStudy(plan, ACCURACY)
    other = SweepStudy(on_another_machine(plan), ACCURACY)
    lost = one.claim()
    kept = one.claim()
    assert lost is not None
    assert kept is not None
    one.storage.set_trial_state_values(lost.trial._trial_id, TrialState.FAIL)
    again = other.claim()
    last = other.claim()
    assert again is not None
    assert last is not None
    assert (again.index, again.values) == (0, {"model.width": 4})
    assert last.values == {"model.width": 16}
    assert other.claim() is None
    assert len(other.study.get_trials()) == 4  # claims add no duplicates
    for claimed in (kept, again, last):
        one.study.tell(claimed.trial.number, 0.5)
    assert one.is_complete()


@needs_optuna
def test_a_worker_that_dies_just_after_a_claim_releases_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments import study, study_storage

    monkeypatch.setattr(study_storage, "HEARTBEAT_SECONDS", 1)
    plan = new_plan(tmp_path / "a", "model.width=[4]", storage="sqlite:///a.db")
    one = study.SweepStudy(plan, ACCURACY)
    other = study.SweepStudy(on_another_machine(plan), ACCURACY)

    def die(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(study, "Trial", die)  # the next step after the trial is set to running
        one.claim()
    for _ in range(60):
        claimed = other.claim()
        if claimed is not None:
            return
        time.sleep(0.2)
    raise AssertionError("the trial is not released")


@needs_optuna
def test_two_workers_can_eliminate_the_same_trial(tmp_path: Path) -> None:
    from optuna.trial import TrialState

    from experiments.study import SweepStudy

    options = {"storage": "sqlite:///a.db", "halving": 2}
    plan = new_plan(tmp_path / "a", "model.width=[4,8]", **options)
    one = SweepStudy(plan, ACCURACY)
    other = SweepStudy(on_another_machine(plan), ACCURACY)
    first = one.claim()
    assert first is not None
    one.release(first, 0.5)
    waiting = one.trials()[0]
    other._eliminate(waiting)
    one._eliminate(waiting)  # it has read the trial before
    assert not one._set_running(0, waiting)
    assert one.trials()[0].state == TrialState.PRUNED


@needs_optuna
def test_the_end_of_a_trial_is_shown_though_another_worker_has_lost_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from optuna.trial import TrialState

    from experiments.study import SweepStudy
    from experiments.sweep_progress import SweepProgress

    plan = new_plan(tmp_path / "a", "model.width=[4,8]", storage="sqlite:///a.db", halving=2)
    study = SweepStudy(plan, ACCURACY)
    claimed = study.claim()
    assert claimed is not None
    study.storage.set_trial_state_values(claimed.trial._trial_id, TrialState.FAIL)
    with SweepProgress(plan, study) as progress:
        progress.show_end(claimed, 0.5, "")
    assert "trial 0000: accuracy 0.5 after 1 validations" in capsys.readouterr().out


@needs_optuna
def test_workers_of_successive_halving_need_the_same_number_of_trials(tmp_path: Path) -> None:
    from experiments.study import SweepStudy

    options: dict[str, Any] = {"storage": "sqlite:///a.db", "halving": 3, "method": "random"}
    ranges = "optimizer.lr=log(0.1, 1)"
    SweepStudy(new_plan(tmp_path / "a", ranges, trials=27, **options), ACCURACY)
    other = make_plan({"config": CONFIG, "name": "a", "trials": 9, **options}, [ranges])
    with pytest.raises(UserError, match="--trials"):
        SweepStudy(on_another_machine(other), ACCURACY)


@needs_optuna
def test_a_machine_without_runs_reports_the_best_trial(tmp_path: Path) -> None:
    from experiments.study import SweepStudy
    from experiments.sweep_report import describe_sweep

    plan = new_plan(tmp_path / "a", "model.width=[4,8]", storage="sqlite:///a.db")
    one = SweepStudy(plan, ACCURACY)
    for value in (0.5, 0.7):
        claimed = one.claim()
        assert claimed is not None
        one.finish(claimed, value)
    write_run(plan.trial_folder(0))
    other_plan = on_another_machine(plan)
    output = describe_sweep(other_plan, SweepStudy(other_plan, ACCURACY))
    assert "without a run in runs/other: 2" in output
    assert "best: trial 0001" in output
    assert "without a run in runs/a: 1" in describe_sweep(plan, one)


@needs_optuna
def test_a_database_with_another_sweep_of_the_same_name_is_an_error(tmp_path: Path) -> None:
    from experiments.study import SweepStudy

    for _ in range(2):
        plan = new_plan(tmp_path / "a", "model.width=[4,8]", storage="sqlite:///a.db")
        assert SweepStudy(plan, ACCURACY).claim() is not None
    plan = new_plan(tmp_path / "a", "model.width=[4,16]", storage="sqlite:///a.db")
    with pytest.raises(UserError, match=r"another sweep a: .* use another --name"):
        SweepStudy(plan, ACCURACY)


@needs_optuna
def test_a_database_that_is_lost_during_a_sweep_is_an_error(tmp_path: Path) -> None:
    from experiments.study import SweepStudy
    from experiments.study_storage import explaining_lost_database

    plan = new_plan(tmp_path / "a", "model.width=[4,8]", storage="sqlite:///a.db")
    study = SweepStudy(plan, ACCURACY)
    claimed = study.claim()
    assert claimed is not None
    Path("a.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(UserError, match="--storage: DatabaseError"), explaining_lost_database():
        study.finish(claimed, 0.5)


@needs_optuna
def test_the_command_of_the_best_trial_starts_as_many_processes(tmp_path: Path) -> None:
    from experiments.study import SweepStudy
    from experiments.sweep_report import repeat_command

    plan = new_plan(tmp_path / "a", "model.width=[4,8]", "seed=[7,8]", "data.batch_size=9")
    study = SweepStudy(plan, ACCURACY)
    claimed = study.claim()
    assert claimed is not None
    study.finish(claimed, 0.5)
    settings = "data.batch_size=9 model.width=4 seed=7"
    assert repeat_command(plan, study, 0).startswith("python train.py --config ")
    assert repeat_command(plan, study, 0).endswith(settings)
    options = plan.options.model_copy(update={"processes": 2})
    command = repeat_command(replace(plan, options=options), study, 0)
    assert command.startswith("torchrun --standalone --nproc-per-node=2 train.py --config ")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists children")
def test_a_trial_is_killed_with_children_in_other_sessions(tmp_path: Path) -> None:
    """As those of torchrun; the script stands for train.py."""
    start = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], "
    script = f"import subprocess, sys; {start}start_new_session=True).wait()"
    run = TrialRun(tmp_path / "run", tmp_path / "output/run.log", [])
    process = RunProcess(run, CONFIG, 1, SpareProcess({}), threading.Event())
    process.kill()
    process.wait(None)
    process.process = subprocess.Popen(
        [sys.executable, "-c", script], text=True, start_new_session=True
    )
    children: list[int] = []
    while not children:
        time.sleep(0.02)
        children = child_processes(process.process.pid)
    process.kill()
    process.wait(None)
    (child,) = children
    for _ in range(500):
        if has_ended(child):
            return
        time.sleep(0.02)
    raise AssertionError("the child still runs")


def start_script(tmp_path: Path, script: str, processes: int = 1) -> RunProcess:
    """A run whose process is a script in the place of train.py."""
    run = TrialRun(tmp_path / "run", tmp_path / "output/run.log", [])
    process = RunProcess(run, CONFIG, processes, SpareProcess({}), threading.Event())
    process.kill()
    process.wait(None)
    run.folder.mkdir()
    run.output.write_text("")
    with run.output.open("ab") as output:
        process.process = subprocess.Popen(
            [sys.executable, "-c", script], text=True, stderr=output, start_new_session=True
        )
    return process


@needs_optuna
def test_trials_that_a_killed_sweep_has_left_behind_use_slots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.scheduler import Scheduler
    from experiments.study import SweepStudy
    from experiments.sweep_progress import SweepProgress

    plan = new_plan(tmp_path / "a", "model.width=[4,8,16]", jobs=2)
    killed_sweep = SweepStudy(plan, ACCURACY)
    locks = []
    for _ in range(2):
        claimed = killed_sweep.claim()
        assert claimed is not None
        claimed.lock.release()
        plan.trial_folder(claimed.index).mkdir()
        locks.append(filelock.FileLock(plan.trial_folder(claimed.index) / ".lock"))
        locks[-1].acquire()  # as the trial, which still trains
    sweep = Scheduler(plan, SweepStudy(plan, ACCURACY), [])
    with SweepProgress(plan, sweep.study) as sweep.progress:
        sweep._claim_trials()
        assert sweep.active == []
        assert "still train: 2" in capsys.readouterr().out
        locks[0].release()
        sweep._next_claim_time = 0.0
        sweep._claim_trials()
        assert [active.claimed.index for active in sweep.active] == [0]
    locks[1].release()


COUNT_SIGNALS = """
import signal, sys, time
from pathlib import Path
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
Path("ready").touch()
while not received or not Path("end").exists():
    time.sleep(0.01)
sys.exit(len(received))
"""


def wait_for_file(name: str) -> None:
    for _ in range(3000):
        if Path(name).exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"there is no {name}")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
def test_a_trial_is_asked_only_once_to_stop(tmp_path: Path) -> None:
    """At a second signal, train.py would end without saving its state."""
    process = start_script(tmp_path, COUNT_SIGNALS)
    wait_for_file("ready")
    for _ in range(3):
        process.request_stop()
        time.sleep(0.1)  # signals that are pending together arrive as one
    Path("end").touch()
    assert process.wait(60)
    assert process.process.returncode == 1


@needs_optuna
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
def test_a_trial_that_does_not_stop_in_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments import scheduler
    from experiments.study import SweepStudy

    plan = new_plan(tmp_path / "a", "model.width=[4,8]")
    sweep = scheduler.Scheduler(plan, SweepStudy(plan, ACCURACY), [])
    process = start_script(tmp_path, COUNT_SIGNALS)  # which ends only if a file exists
    claimed = sweep.study.claim()
    assert claimed is not None
    active = scheduler.ActiveTrial(claimed, [process.run])
    sweep.slots[0] = scheduler.Job(active, 0, process)
    wait_for_file("ready")
    (process.run.folder / "checkpoints").mkdir()
    (process.run.folder / "checkpoints/step_30.pt").touch()
    monkeypatch.setattr(scheduler, "STOP_SECONDS", 0.2)
    sweep._stop_runs()
    assert process.process.returncode == -signal.SIGKILL
    warning = capsys.readouterr().err
    assert str(process.run.folder) in warning
    assert "step 30" in warning


@needs_optuna
def test_a_trial_that_is_killed_at_each_start_fails_with_its_output_file(tmp_path: Path) -> None:
    from experiments.scheduler import ActiveTrial, Job, Scheduler
    from experiments.study import SweepStudy

    plan = new_plan(tmp_path / "a", "model.width=[4,8]")
    sweep = Scheduler(plan, SweepStudy(plan, ACCURACY), [])
    process = start_script(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert process.wait(60)
    claimed = sweep.study.claim()
    assert claimed is not None
    active = ActiveTrial(claimed, [process.run])
    for _ in range(3):
        assert active.error == ""
        sweep._handle_exit_code(Job(active, 0, process), process, process.process.returncode)
    assert str(process.run.output) in active.error


CRASH = {"state": "failed", "error": "ValueError: no such class (model.py, line 3)"}
LOST = {"state": "failed", "error": LOST_CONNECTION}


@pytest.mark.parametrize(
    ("result", "output", "can_be_resumed", "error"),
    [
        (CRASH, "Traceback (most recent call last):", False, "no such class"),
        (LOST, f"error: {LOST_CONNECTION}", True, "exit code 1"),
        (LOST, f"error: {LOST_CONNECTION}\n[rank 1] error: no memory", False, "no memory"),
        ({}, "", True, "run.log"),
    ],
)
def test_one_of_several_processes_was_killed_or_has_failed(
    tmp_path: Path, result: dict[str, str], output: str, can_be_resumed: bool, error: str
) -> None:
    script = f"import sys; print({output!r}, file=sys.stderr); sys.exit(1)"
    process = start_script(tmp_path, script, processes=2)
    assert process.wait(60)
    (process.run.folder / "result.json").write_text(json.dumps(result))
    assert process.can_be_resumed(1) == can_be_resumed
    assert error in process.describe_failure(1)


@pytest.mark.parametrize(("exit_code", "can_be_resumed"), [(-9, True), (137, True), (255, False)])
def test_an_exit_code_that_stands_for_no_signal_is_a_failure(
    tmp_path: Path, exit_code: int, can_be_resumed: bool
) -> None:
    process = start_script(tmp_path, "")
    assert process.wait(60)
    assert process.can_be_resumed(exit_code) == can_be_resumed


def has_ended(process: int) -> bool:
    """Whether a process has ended, even if nobody has asked for its exit code yet."""
    try:
        return ") Z" in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True


def test_an_error_that_ends_with_a_colon_is_reported_with_its_next_line() -> None:
    output = "step 1\nerror: the data is unavailable:\n  no.such.host\n[rank 1] error: b\nend\n"
    assert ERROR.findall(output) == ["the data is unavailable:\n  no.such.host", "b"]


@needs_optuna
@pytest.mark.parametrize("method", ["random", "tpe"])
def test_values_do_not_depend_on_what_was_killed(tmp_path: Path, method: str) -> None:
    from experiments.study import SweepStudy

    ranges = ("optimizer.lr=log(1e-4, 1)", "model.width=int(4, 99)", "loss.name=[a,b,c]")
    found = []
    for name in ("a", "b"):
        plan = new_plan(tmp_path / name, *ranges, method=method, trials=14)
        for number in range(14):
            study = SweepStudy(plan, ACCURACY)
            claimed = study.claim()
            assert claimed is not None
            if name == "b" and number % 3 == 0:
                claimed.lock.release()
                study = SweepStudy(plan, ACCURACY)
                claimed = study.claim()
                assert claimed is not None
            found.append(claimed.values)
            study.finish(claimed, claimed.values["model.width"] / 100)
    assert found[:14] == found[14:]
    assert len({values["optimizer.lr"] for values in found}) == 14


@needs_optuna
@pytest.mark.parametrize("end", [b'{"op_code": 4, "wor', b"\n{", b"\x00\x00"])
def test_a_journal_that_was_cut_is_repaired(tmp_path: Path, end: bytes) -> None:
    from experiments.study import SweepStudy

    plan = new_plan(tmp_path / "a", "model.width=[4,8]")
    first = SweepStudy(plan, ACCURACY).claim()
    assert first is not None
    with (plan.folder / "journal.log").open("ab") as journal:
        journal.write(end.lstrip(b"\n"))
    study = SweepStudy(plan, ACCURACY)
    second = study.claim()
    assert second is not None
    study.finish(second, 0.5)
    assert SweepStudy(plan, ACCURACY).best_trial() == (1, 0.5)


@needs_optuna
def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    from experiments.study import SweepStudy

    plan = new_plan(tmp_path / "a", "model.width=[4,8]")
    SweepStudy(plan, ACCURACY).claim()
    journal = plan.folder / "journal.log"
    journal.write_bytes(b"{broken}\n" + journal.read_bytes())
    with pytest.raises(UserError, match=r"journal\.log is damaged"):
        SweepStudy(plan, ACCURACY)


# Successive halving


def candidates(values: Mapping[int, Mapping[int, float]], count: int) -> list[Candidate]:
    return [Candidate(index, values.get(index, {})) for index in range(count)]


def test_the_best_third_trains_on_after_each_rung() -> None:
    values: dict[int, dict[int, float]] = {}
    assert find_stage(candidates(values, 9), 3, True, 9) == Stage(1, list(range(9)), [])
    for index in range(9):
        values[index] = {1: index / 10}
    assert find_stage(candidates(values, 9), 3, True, 9) == Stage(3, [8, 7, 6], [5, 4, 3, 2, 1, 0])
    assert find_stage(candidates(values, 9), 3, False, 9).to_train == [0, 1, 2]
    values[8][3] = 0.1
    values[6][3] = 0.1
    assert find_stage(candidates(values, 9), 3, True, 9).to_train == [7]
    values[7][3] = 0.0
    stage = find_stage(candidates(values, 9), 3, True, 9)
    assert (stage.rung, stage.to_train) == (None, [6])  # of equal values, the first trial


def test_trials_that_fail_or_end_early_are_ranked() -> None:
    trials_of_rung = [
        Candidate(0, {1: 0.9}),
        Candidate(1, has_failed=True),
        Candidate(2, final=0.95),
        Candidate(3, {1: 0.2}),
    ]
    assert find_stage(trials_of_rung, 2, True, None) == Stage(2, [0], [3])
    trials_of_rung[0] = Candidate(0, {1: 0.9}, final=0.9)
    assert find_stage(trials_of_rung, 2, True, None) == Stage(None, [], [3])
    assert find_stage(candidates({}, 4), 2, True, validations=1) == Stage(None, [0, 1, 2, 3], [])


# The objective


def test_the_best_validation_counts(tmp_path: Path) -> None:
    rows = ["data,split,epoch,step,metric,value"]
    rows += ["d,train,1,4,accuracy,0.99", "d,validation,1,4,accuracy,0.5"]
    rows += ["d,validation,2,8,accuracy,nan", "d,validation,3,12,accuracy,0.7"]
    rows += ["d,other,3,12,accuracy,0.8", "d,validation,4,16,accuracy,0.6", "d,validation,5"]
    rows += ["\0\0d,validation,5,18,accuracy,0.4"]  # after a loss of power
    rows += [f'"{"x" * 200_000}']  # longer than csv reads
    rows += ["d,validation,5,20,accuracy,0.9"]  # of 0.95: half a row of a process that was killed
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    assert ACCURACY.best(ACCURACY.validations(tmp_path)) == 0.7
    assert Objective("accuracy", LOWEST).best(ACCURACY.validations(tmp_path)) == 0.4
    assert Objective("other/accuracy", HIGHEST, "other").validations(tmp_path) == [0.8]
    assert ACCURACY.validations(tmp_path)[-1] == 0.4
    assert ACCURACY.validations(tmp_path / "none") == []
    assert ACCURACY.best([float("nan")]) is None


def load(*overrides: str) -> Settings:
    return load_settings(CONFIG, overrides)


def test_the_direction_is_that_of_the_metric() -> None:
    assert find_objective(load("checkpoint.monitor=accuracy")) == ACCURACY
    assert not find_objective(load("checkpoint.monitor=loss")).higher_is_better
    shifted = ("data.validation_sets={shifted: {name: synthetic.Synthetic}}", "checkpoint.mode=min")
    given = load("checkpoint.monitor=shifted/score", *shifted)
    assert find_objective(given) == Objective("shifted/score", LOWEST, "shifted")
    given = load("checkpoint.monitor=a/b", "checkpoint.mode=max")
    assert find_objective(given) == Objective("a/b", HIGHEST)
    with pytest.raises(UserError, match=r"checkpoint\.mode=max"):
        find_objective(load("checkpoint.monitor=score"))
    assert count_validations(load("trainer.epochs=7", "trainer.validate_every_epochs=3")) == 3
    assert count_validations(load("trainer.max_steps=7")) is None


# Devices


def test_jobs_get_gpus_in_turn_and_a_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = ["0", "GPU-5"]
    gpus = [job_variables(job, 3, 1, names)["CUDA_VISIBLE_DEVICES"] for job in range(3)]
    assert gpus == ["0", "GPU-5", "0"]
    assert job_variables(1, 2, 2, ["0", "1", "2", "3"])["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert job_variables(0, 4, 2, []) == {"OMP_NUM_THREADS": "2"}
    assert job_variables(0, 99, 1, []) == {"OMP_NUM_THREADS": "1"}
    assert job_variables(0, 1, 1, []) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert job_variables(0, 4, 1, []) == {}


def test_gpus_are_found_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'; echo 'GPU 1: A (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_devices("auto", 1) == ["0", "1"]
    assert find_devices("cpu", 1) == []
    assert find_devices("cuda:1", 1) == []
    with pytest.raises(UserError, match="--processes 3: this machine has 2 GPUs"):
        find_devices("auto", 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8")
    assert find_devices("cuda", 2) == ["3", "GPU-8"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_devices("auto", 2) == []


def test_a_spare_process_runs_train(tmp_path: Path) -> None:
    run = TrialRun(tmp_path / "a run", tmp_path / "output/run.log", ["model.width=-1"])
    spare = SpareProcess({})
    process = RunProcess(run, CONFIG, 1, spare, threading.Event())
    assert process.wait(60)
    assert process.process.returncode == 2
    assert process.describe_failure(2).startswith("model.width = -1")
    assert not run.folder.exists()


def test_a_torch_that_cannot_be_imported_is_reported_in_the_output(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so is missing')")
    run = TrialRun(tmp_path / "run", tmp_path / "output/run.log", [])
    spare = SpareProcess({"PYTHONPATH": str(tmp_path)})
    process = RunProcess(run, CONFIG, 1, spare, threading.Event())
    assert process.wait(60)
    assert process.process.returncode != 0
    assert "libcudart.so is missing" in run.output.read_text()


def test_a_spare_process_ends_with_the_sweep() -> None:
    spare = SpareProcess({})
    assert spare.process.stdin is not None
    spare.process.stdin.close()  # as the system does when the sweep is killed
    assert spare.process.wait(60) == 0


def test_a_run_whose_spare_process_was_killed_can_start_again(tmp_path: Path) -> None:
    run = TrialRun(tmp_path / "run", tmp_path / "output/run.log", [])
    spare = SpareProcess({})
    spare.process.kill()
    spare.process.wait()
    process = RunProcess(run, CONFIG, 1, spare, threading.Event())
    assert process.wait(60)
    assert process.can_be_resumed(process.process.returncode)
