"""MLflow: training writes a run, which is read back from the SQLite file."""
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
from logger.log_writer import LogEntry
from logger.mlflow_tracker import Tracker
from trainer.classifier import Classifier

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
    """A store without runs; creating one takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(autouse=True)
def store(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each test its own store, at the default location."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, "mlflow.db")


def run_in_mlflow() -> Any:
    """The only run of the experiment."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("synthetic")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def values_in_mlflow() -> dict[str, list[tuple[int, float]]]:
    """Step and value of each metric in MLflow, in the order in which they were sent."""
    client = mlflow.MlflowClient()
    run = run_in_mlflow()
    values = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        values[name] = [(metric.step, metric.value) for metric in history]
    return values


def values_in_file(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each metric in metrics.csv."""
    found: dict[str, list[tuple[int, float]]] = {}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = found.setdefault(f"{row['split']}/{row['metric']}", [])
            values.append((int(row["step"]), float(row["value"])))
    return found


def assert_same(run: Path, *speeds: str) -> None:
    """MLflow has the values of metrics.csv; `speeds` differ, as they are measured again."""
    expected = values_in_file(run)
    found = values_in_mlflow()
    assert found.keys() == expected.keys()
    for name, pairs in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in pairs]
        if name not in speeds:
            values = [value for _, value in pairs]
            assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-8)


SPEEDS = ("train/samples_per_second", "train/waiting_for_data")


def test_mlflow_gets_values_settings_and_figures_of_a_run(tmp_path: Path, train: Command) -> None:
    run = tmp_path / "first"
    assert train(run, *TRACKED, "trainer.epochs=2", "logger.every_steps=5") == 0
    assert_same(run)
    there = run_in_mlflow()
    assert [step for step, _ in values_in_mlflow()["train/loss"]] == [5, 10, 15, 16, 20, 25, 30, 32]
    assert (there.info.run_name, there.info.status) == ("first", "FINISHED")
    settings = load_settings(run / "settings.yaml").model_dump(mode="json")
    assert there.data.params == {name: str(value) for name, value in flatten(settings).items()}
    artifacts = tmp_path / "mlruns" / there.info.experiment_id / there.info.run_id / "artifacts"
    assert (artifacts / "settings.yaml").read_text() == (run / "settings.yaml").read_text()
    figures = {file.name: file.read_bytes()[:4] for file in (artifacts / "figures").iterdir()}
    names = {"inputs_00000016.png", "confusion_matrix_00000032.png", "misclassified_00000032.png"}
    assert figures == dict.fromkeys(names, b"\x89PNG")


def test_a_resumed_run_continues_in_mlflow_with_each_step_once(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    saved = ("checkpoint.every_steps=4", "checkpoint.keep=9", "scheduler.name=constant")
    assert train(run, *TRACKED, *saved) == 0
    first_run = run_in_mlflow()
    older = run / "checkpoints/step_00000004.pt"  # twelve steps before the last one
    assert command("train", "--resume", older, "trainer.epochs=2") == 0
    assert_same(run, *SPEEDS)
    assert [step for step, _ in values_in_mlflow()["train/loss"]] == [*range(1, 33)]
    assert [step for step, _ in values_in_mlflow()["validation/loss"]] == [16, 32]
    assert run_in_mlflow().info.run_id == first_run.info.run_id
    assert run_in_mlflow().data.params["trainer.epochs"] == "1"  # MLflow changes no parameters
    (file,) = tmp_path.glob("mlruns/*/*/artifacts/settings.yaml")
    assert load_settings(file).trainer.epochs == 2


def test_mlflow_has_the_final_state_of_a_run(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, {3: lambda: signal.raise_signal(signal.SIGTERM)})
    assert train(run, *TRACKED) == 128 + signal.SIGTERM
    assert run_in_mlflow().info.status == "KILLED"
    at_step(monkeypatch, {6: fail})
    assert command("train", "--resume", run) == 2
    assert run_in_mlflow().info.status == "FAILED"
    states: list[str] = []
    at_step(monkeypatch, {9: lambda: states.append(run_in_mlflow().info.status)})
    monkeypatch.setattr("logger.run_log.WRITE_INTERVAL_SECONDS", 0.0)
    assert command("train", "--resume", run) == 0
    assert states == ["RUNNING"]
    assert run_in_mlflow().info.status == "FINISHED"
    assert command("train", "--resume", run) == 0  # no steps are left
    assert run_in_mlflow().info.status == "FINISHED"
    assert_same(run, *SPEEDS)


def test_a_resumed_run_that_only_lacked_its_figures_is_finished_in_mlflow(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figures(*_: object) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "figures", figures)
        assert train(run, *TRACKED) == 130
    assert run_in_mlflow().info.status == "FAILED"
    assert command("train", "--resume", run) == 0
    assert run_in_mlflow().info.status == "FINISHED"
    assert list(tmp_path.glob("mlruns/*/*/artifacts/figures/confusion_matrix_*.png"))


def test_training_continues_when_the_store_fails(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("logger.run_log.WRITE_INTERVAL_SECONDS", 0.0)
    at_step(monkeypatch, {9: lambda: Path("mlflow.db").write_bytes(b"no database" * 100_000)})
    assert train(tmp_path / "run", *TRACKED) == 0
    lines = capsys.readouterr().out.splitlines()
    (warning,) = [line for line in lines if "tracker" in line and "metrics.csv" in line]
    assert "file is not a database" in warning
    steps = [step for step, _ in values_in_file(tmp_path / "run")["train/loss"]]
    assert steps == [*range(1, 17)]


def test_an_unreachable_store_is_an_error_for_new_runs_only(
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
    for part in ("error: logger.tracker", "mlflow", "127.0.0.1"):
        assert part in line
    assert not (tmp_path / "new").exists()

    # A job that is resumed in a queue does not end because of its tracker.
    assert command("train", "--resume", run, "trainer.max_steps=6") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "tracker" in line and "metrics.csv" in line]
    assert [step for step, _ in values_in_file(run)["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_missing_package_is_reported_with_its_extra(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delitem(sys.modules, "logger.mlflow_tracker")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert train(tmp_path / "run", *TRACKED) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("error: ", "mlflow", "pip install -e '.[mlflow]'"):
        assert part in line
    assert not (tmp_path / "run").exists()


def test_values_are_adapted_to_the_limits_of_mlflow(
    tmp_path: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = "x" * 900
    tracker = Tracker(tmp_path, make_settings(f"model.freeze=[{frozen}]"))
    log_batch = tracker.client.log_batch
    sizes: list[int] = []

    def counting_log_batch(run: str, metrics: list[Any]) -> None:
        sizes.append(len(metrics))
        log_batch(run, metrics)

    monkeypatch.setattr(tracker.client, "log_batch", counting_log_batch)
    entries = [LogEntry(1.0, "train", 1, step, {"IoU (%)": 0.5}) for step in range(1500)]
    tracker.scalars(entries)
    assert sizes == [1000, 500]  # only a server checks this limit
    assert run_in_mlflow().data.params["model.freeze"] == f"['{frozen}"[:500]
    assert [step for step, _ in values_in_mlflow()["train/IoU ___"]] == [*range(1500)]


def test_several_processes_log_one_run(tmp_path: Path) -> None:
    run_processes(2, "train", tmp_path / "run", *TRACKED, "logger.every_steps=2")
    assert_same(tmp_path / "run")
