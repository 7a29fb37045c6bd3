"""Runs in MLflow: written by training, read back from its SQLite file."""
# ruff: noqa: D103, E402  the names of the tests say what they test; MLflow may be missing

import csv
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launcher import run_processes
from test_disks import at_step, fail

mlflow: Any = pytest.importorskip("mlflow", reason="only where the extra 'mlflow' is installed")

from config.loading import flatten, load_settings
from config.schema import Settings
from logger.mlflow_tracker import Tracker

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # it leaves its files open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
TRACKED = ("logger.tracker=mlflow", "logger.every_steps=1", "trainer.epochs=1")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which there is nothing yet; to make one takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(autouse=True)
def store(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has one of its own, at the default place."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, "mlflow.db")


def in_mlflow() -> Any:
    """The only run that there is."""
    (run,) = mlflow.MlflowClient().search_runs([found("synthetic").experiment_id])
    return run


def found(experiment: str) -> Any:
    return mlflow.MlflowClient().get_experiment_by_name(experiment)


def values_in_mlflow() -> dict[str, list[tuple[int, float]]]:
    """Step and value of all that it has of each metric, in the order in which they came."""
    client, run = mlflow.MlflowClient(), in_mlflow()
    histories = {
        name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics
    }
    return {name: [(m.step, m.value) for m in history] for name, history in histories.items()}


def values_in_file(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.csv."""
    found: dict[str, list[tuple[int, float]]] = {}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = found.setdefault(f"{row['split']}/{row['metric']}", [])
            values.append((int(row["step"]), float(row["value"])))
    return found


def assert_same(run: Path, *speeds: str) -> None:
    """MLflow has what the file has, but for what differs when a step is done again."""
    here, there = values_in_file(run), values_in_mlflow()
    assert here.keys() == there.keys()
    for name in here:
        if name in speeds:
            assert [step for step, _ in there[name]] == [step for step, _ in here[name]]
        else:
            expected: Any = [(step, pytest.approx(v, rel=1e-8)) for step, v in here[name]]
            assert there[name] == expected


SPEEDS = ("train/samples_per_second", "train/waiting_for_data")


def test_a_run_is_in_mlflow_as_in_its_folder(tmp_path: Path, train: Command) -> None:
    run = tmp_path / "first"
    assert train(run, *TRACKED, "trainer.epochs=2", "logger.every_steps=5") == 0
    assert_same(run)
    there, steps = in_mlflow(), [step for step, _ in values_in_mlflow()["train/loss"]]
    assert steps == [5, 10, 15, 16, 20, 25, 30, 32]
    assert (there.info.run_name, there.info.status) == ("first", "FINISHED")
    settings = load_settings(run / "settings.yaml").model_dump(mode="json")
    assert there.data.params == {name: str(value) for name, value in flatten(settings).items()}
    artifacts = tmp_path / "mlruns" / there.info.experiment_id / there.info.run_id / "artifacts"
    assert (artifacts / "settings.yaml").read_text() == (run / "settings.yaml").read_text()
    pictures = {file.name: file.read_bytes()[:4] for file in (artifacts / "pictures").iterdir()}
    names = {"inputs_00000016.png", "confusion_matrix_00000032.png", "misclassified_00000032.png"}
    assert pictures == dict.fromkeys(names, b"\x89PNG")


def test_a_run_goes_on_in_mlflow_and_has_each_step_once(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    saved = ("checkpoint.every_steps=4", "checkpoint.keep=9", "scheduler.name=constant")
    assert train(run, *TRACKED, *saved) == 0
    begun = in_mlflow()
    older = run / "checkpoints/step_00000004.pt"  # from which twelve steps are done again
    assert command("train", "--resume", older, "trainer.epochs=2") == 0
    assert_same(run, *SPEEDS)
    assert [step for step, _ in values_in_mlflow()["train/loss"]] == [*range(1, 33)]
    assert [step for step, _ in values_in_mlflow()["validation/loss"]] == [16, 32]
    assert in_mlflow().info.run_id == begun.info.run_id
    assert in_mlflow().data.params["trainer.epochs"] == "1"  # MLflow changes none
    (file,) = tmp_path.glob("mlruns/*/*/artifacts/settings.yaml")
    assert load_settings(file).trainer.epochs == 2


def test_mlflow_says_how_a_run_ended(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, {3: lambda: signal.raise_signal(signal.SIGTERM)})
    assert train(run, *TRACKED) == 128 + signal.SIGTERM
    assert in_mlflow().info.status == "KILLED"
    at_step(monkeypatch, {6: fail})
    assert command("train", "--resume", run) == 2
    assert in_mlflow().info.status == "FAILED"
    states: list[str] = []
    at_step(monkeypatch, {9: lambda: states.append(in_mlflow().info.status)})
    monkeypatch.setattr("logger.run_log.PAUSE", 0.0)
    assert command("train", "--resume", run) == 0
    assert states == ["RUNNING"]
    assert in_mlflow().info.status == "FINISHED"
    assert command("train", "--resume", run) == 0  # there is nothing left to do
    assert in_mlflow().info.status == "FINISHED"
    assert_same(run, *SPEEDS)


def test_a_store_that_breaks_does_not_end_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("logger.run_log.PAUSE", 0.0)
    at_step(monkeypatch, {9: lambda: Path("mlflow.db").write_bytes(b"no database" * 100_000)})
    assert train(tmp_path / "run", *TRACKED) == 0
    said = capsys.readouterr().out
    assert said.count("what the tracker is sent ends here, metrics.csv goes on") == 1
    assert "file is not a database" in said
    steps = [step for step, _ in values_in_file(tmp_path / "run")["train/loss"]]
    assert steps == [*range(1, 17)]


def test_a_store_that_cannot_be_reached_is_found_before_training(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    run = tmp_path / "run"
    assert train(run, *TRACKED, "trainer.max_steps=4") == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    capsys.readouterr()
    assert train(tmp_path / "new", *TRACKED) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: logger.tracker = 'mlflow': ")
    assert "127.0.0.1" in line
    assert not (tmp_path / "new").exists()

    # Who goes on by themselves, in a queue, shall not end for that.
    assert command("train", "--resume", run, "trainer.max_steps=6") == 0
    assert "what the tracker is sent ends here" in capsys.readouterr().out
    assert [step for step, _ in values_in_file(run)["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_missing_package_is_told_with_its_extra(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delitem(sys.modules, "logger.mlflow_tracker")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert train(tmp_path / "run", *TRACKED) == 2
    expected = "error: mlflow is missing; pip install -e '.[mlflow]' brings it\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "run").exists()


def test_what_mlflow_would_refuse_is_brought_into_its_form(
    tmp_path: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = "x" * 900
    tracker = Tracker(tmp_path, make_settings(f"model.freeze=[{frozen}]"))
    send, sizes = tracker.client.log_batch, list[int]()

    def note(run: str, metrics: list[Any]) -> None:
        sizes.append(len(metrics))
        send(run, metrics)

    monkeypatch.setattr(tracker.client, "log_batch", note)
    tracker.scalars([(1.0, "train", 1, step, {"IoU (%)": 0.5}) for step in range(1500)])
    assert sizes == [1000, 500]  # which only a server insists on
    assert in_mlflow().data.params["model.freeze"] == f"['{frozen}"[:500]
    assert [step for step, _ in values_in_mlflow()["train/IoU ___"]] == [*range(1500)]


def test_several_processes_are_one_run(tmp_path: Path) -> None:
    run_processes(2, "train", tmp_path / "run", *TRACKED, "logger.every_steps=2")
    assert_same(tmp_path / "run")
