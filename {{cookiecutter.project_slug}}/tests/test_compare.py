"""compare.py: rows of seeds, which differences are real, and what it says about broken runs."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import io
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from run_folders import write_evaluation, write_metrics, write_run

from base.base_dataset import BaseDataset
from evaluation.sample_figures import draw_samples, load_evaluated_data
from experiments.comparison import Comparison, compare_runs
from experiments.metric import HIGHEST
from experiments.removal import remove_run
from experiments.rows import Row
from experiments.runs import find_runs, read_run, run_folders
from experiments.statistics import welch_test
from experiments.verdicts import judge_rows
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def compared(folder: Path, *by: str, metric: str | None = None) -> Comparison:
    return compare_runs(find_runs([folder]), by, metric)


def write_seeds(folder: Path, values: list[float], **settings: Any) -> None:
    for seed, value in enumerate(values):
        write_run(folder / f"seed={seed}", accuracy=value, seed=seed, **settings)


@pytest.fixture
def widths(tmp_path: Path) -> Path:
    """Three widths with four seeds each; the second is best, the third hardly differs from it."""
    folder = tmp_path / "width"
    write_seeds(folder / "0", [0.900, 0.902, 0.904, 0.901], width=32)
    write_seeds(folder / "1", [0.931, 0.935, 0.930, 0.933], width=64)
    write_seeds(folder / "2", [0.930, 0.933, 0.931, 0.932], width=128)
    return folder


def test_runs_that_differ_only_in_the_seed_form_a_row(widths: Path) -> None:
    comparison = compared(widths)
    assert comparison.keys == ["model.width"]
    verdicts = {}
    for row in comparison.rows:
        assert len(row.values) == 4
        assert row.verdict is not None
        verdicts[row.setting("model.width")] = row.verdict
    assert verdicts[64].text == "best"
    assert verdicts[32].text == "worse"
    assert verdicts[128].text == "within noise"
    assert verdicts[128].seeds is not None
    assert verdicts[128].seeds > 4


def test_equal_rows_are_rarely_called_worse() -> None:
    """The best of 20 rows is chosen from the same values: correct for 190 pairs, not for 19."""
    rng = random.Random(0)
    tables_with_worse_rows = 0
    for _ in range(40):
        rows = []
        for _ in range(20):
            values = [rng.gauss(0, 1) for _ in range(20)]
            rows.append(Row([], values))
        judge_rows(rows, HIGHEST)
        if any(row.verdict is not None and row.verdict.text == "worse" for row in rows):
            tables_with_worse_rows += 1
    assert tables_with_worse_rows <= 4  # 2 are expected at most; without the correction, 8


def test_p_values_are_corrected_for_all_pairs_of_rows(widths: Path) -> None:
    comparison = compared(widths)
    rows = {row.setting("model.width"): row for row in comparison.rows}
    raw = welch_test(rows[32].values, rows[64].values)
    assert raw is not None
    assert rows[32].verdict is not None
    assert rows[32].verdict.p_value == pytest.approx(3 * raw)


def test_seeds_to_tell_are_more_than_there_are(tmp_path: Path) -> None:
    """Four rows have six pairs, so the smallest p value is multiplied by six."""
    write_seeds(tmp_path / "best", [0.985, 0.993, 1.0], width=1)
    write_seeds(tmp_path / "other", [0.94, 0.955, 0.97], width=2)
    assert compared(tmp_path).rows[0].verdict.text == "worse"  # type: ignore[union-attr]
    for number, value in enumerate((0.95, 0.96), start=3):
        write_seeds(tmp_path / str(number), [value - 0.03, value, value + 0.03], width=number)
    rows = {row.setting("model.width"): row for row in compared(tmp_path).rows}
    verdict = rows[2].verdict
    assert verdict is not None
    assert verdict.text == "within noise"
    assert verdict.seeds is not None
    assert verdict.seeds > 3


def test_runs_on_other_data_are_not_compared_unless_they_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "example", accuracy=1.0, manifest={"data": {"title": "shapes"}})
    mine = {"data": {"title": "digits"}, "started": "2026-12-01T10:00:00+00:00"}
    write_run(tmp_path / "mine", accuracy=0.9, manifest=mine, width=64)
    runs = find_runs([tmp_path])
    compared_row, excluded_row = compare_runs(runs, same_data=True).rows
    assert compared_row.is_best
    assert compared_row.newest.folder.name == "mine"
    assert "shapes" in excluded_row.exclusion
    assert compare_runs(runs).best is not compared_row
    assert not compare_runs(runs).rows[1].exclusion


def test_the_newest_run_decides_the_data_set_before_the_metric(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        old = {"data": {"title": "shapes"}}
        write_run(tmp_path / f"runs/old{number}", manifest=old, width=number + 1)
    manifest = {"data": {"title": "houses"}, "started": "2026-12-01T10:00:00+00:00"}
    best = {"metric": "rmse", "direction": "lowest", "value": 3.0, "step": 48}
    new = tmp_path / "runs/new"
    write_run(new, None, manifest=manifest, result={"best": best}, monitor="rmse")
    comparison = compare_runs(find_runs([tmp_path / "runs"]), same_data=True)
    assert comparison.metric.name == "rmse"
    assert [row.newest.folder.name for row in comparison.compared] == ["new"]
    assert {row.exclusion for row in comparison.rows} == {"", "data set shapes"}
    assert command("compare", "--metric", "accuracy") == 2
    assert "houses" in capsys.readouterr().err

    (new / "result.json").unlink()  # as after kill -9
    assert command("compare") == 0
    assert "No run on houses" in capsys.readouterr().out


def test_the_newest_run_decides_which_value_is_best(tmp_path: Path) -> None:
    for minute, direction in enumerate(("highest", "lowest")):
        started = {"started": f"2026-11-30T10:0{minute}:00+00:00"}
        value = 0.5 + minute
        best = {"metric": "score", "direction": direction, "value": value, "step": 48}
        folder = tmp_path / direction
        write_run(folder, manifest=started, result={"best": best}, monitor="score", width=minute)
    runs = find_runs([tmp_path])
    comparison = compare_runs(runs)
    assert comparison.metric.direction == "lowest"
    warning = next(warning for warning in comparison.warnings if "score" in warning)
    assert "highest in highest" in warning
    assert "lowest in lowest" in warning
    assert "--mode" in warning
    assert not any("--mode" in warning for warning in compare_runs(runs, mode="max").warnings)


def test_the_run_to_show_is_the_one_closest_to_the_mean(tmp_path: Path) -> None:
    write_seeds(tmp_path, [0.90, 0.95, 0.99])
    (row,) = compared(tmp_path).rows
    assert row.typical.settings["seed"] == 1


def test_a_single_seed_is_judged_by_the_spread_of_the_others(tmp_path: Path) -> None:
    write_seeds(tmp_path / "a", [0.90, 0.91, 0.92], width=32)
    write_run(tmp_path / "b", accuracy=0.95, width=64)
    comparison = compared(tmp_path)
    worse = comparison.rows[1]
    assert worse.verdict is not None
    assert worse.verdict.is_pooled
    assert worse.verdict.p_value is not None


def test_without_repetitions_nothing_is_claimed(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs/a", accuracy=0.90, width=32)
    write_run(tmp_path / "runs/b", accuracy=0.95, width=64)
    assert command("compare") == 0
    output = capsys.readouterr().out
    assert "single seed" in output
    assert "seed=1" in output  # how to repeat it
    assert "better" not in output


def test_the_same_seed_twice_is_no_repetition(tmp_path: Path) -> None:
    for minute, name in enumerate(("old", "new")):
        started = {"started": f"2026-11-30T10:0{minute}:00+00:00"}
        write_run(tmp_path / name, accuracy=0.9 + minute / 100, manifest=started)
    comparison = compared(tmp_path)
    assert [run.folder.name for row in comparison.rows for run in row.runs] == ["new"]
    assert any("old" in warning for warning in comparison.warnings)


def test_runs_of_other_code_form_another_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", manifest={"git": {"commit": "a" * 40, "dirty": False}})
    write_run(tmp_path / "b", manifest={"git": {"commit": "b" * 40, "dirty": True}})
    comparison = compared(tmp_path)
    assert len(comparison.rows) == 2
    assert any("uncommitted" in warning for warning in comparison.warnings)


def test_settings_that_do_not_change_the_result_do_not_separate_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, name="first")
    write_run(tmp_path / "b", seed=1, name="second")
    assert len(compared(tmp_path).rows) == 1


def test_by_averages_over_all_other_settings(tmp_path: Path) -> None:
    for width in (32, 64):
        for rate in (0.1, 0.2):
            write_run(tmp_path / f"{width}-{rate}", width=width, lr=rate)
    comparison = compared(tmp_path, "model.width")
    assert sorted(len(row.runs) for row in comparison.rows) == [2, 2]
    assert any("optimizer.lr" in warning for warning in comparison.warnings)


def test_a_metric_is_that_of_the_best_step(tmp_path: Path) -> None:
    write_run(tmp_path / "a", accuracy=0.9)
    (row,) = compared(tmp_path, metric="loss").rows
    assert row.values == [1.5 / 3]  # not the lowest, which is the last


def test_a_killed_run_has_the_best_value_of_its_log(tmp_path: Path) -> None:
    write_run(tmp_path / "a", accuracy=0.9, state=None)
    (row,) = compared(tmp_path).rows
    assert row.values == [0.9]  # not the last one


def test_a_lower_value_is_best_if_the_runs_say_so(tmp_path: Path) -> None:
    for name, value in (("a", 3.0), ("b", 2.0)):
        best = {"metric": "regret", "direction": "lowest", "value": value, "step": 48}
        width = int(value)
        write_run(tmp_path / name, result={"best": best}, monitor="regret", width=width)
    best_row = compared(tmp_path).best
    assert best_row is not None
    assert best_row.values == [2.0]


def test_an_unknown_direction_is_not_guessed(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, width, value in (("a", 16, 0.8), ("b", 32, 0.7), ("c", 64, 0.9)):
        run = write_run(tmp_path / name, value, state=None, monitor="bleu", width=width)
        file = run / "metrics.csv"
        file.write_text(file.read_text().replace("accuracy", "bleu"))
    comparison = compared(tmp_path)
    assert comparison.best is None
    rows = [*comparison.rows]
    comparison.sort_by_value()
    assert comparison.rows == rows
    assert len(rows) == 3
    assert command("compare", tmp_path) == 0
    assert "--mode" in capsys.readouterr().out


def test_the_conclusion_names_all_tests_that_it_relies_on(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_seeds(tmp_path / "best", [0.9, 0.901, 0.902], width=64)
    write_seeds(tmp_path / "worse", [0.8, 0.801, 0.802], width=32)
    assert command("compare", tmp_path) == 0
    assert "pooled" not in capsys.readouterr().out.partition("It is better")[2]
    write_seeds(tmp_path / "single", [0.7], width=16)
    assert command("compare", tmp_path) == 0
    conclusion = capsys.readouterr().out.partition("It is better")[2]
    assert "Welch" in conclusion
    assert "pooled" in conclusion


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"data": {"title": "a", "hash": "1"}}, {"data": {"title": "a", "hash": "2"}}, "training"),
        ({"data": {"title": "a"}}, {"data": {"title": "b"}}, "data set"),
        ({"validation": {"hash": "1"}}, {"validation": {"hash": "2"}}, "validation data"),
        ({"versions": {"torch": "2.14.0"}}, {"versions": {"torch": "2.15.0"}}, "torch"),
    ],
)
def test_runs_that_cannot_be_compared_are_reported(
    tmp_path: Path, first: dict[str, object], second: dict[str, object], expected: str
) -> None:
    write_run(tmp_path / "a", manifest=first, width=32)
    write_run(tmp_path / "b", manifest=second, width=64)
    (warning,) = compared(tmp_path).warnings
    assert expected in warning


def test_other_splits_of_another_seed_are_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, manifest={"validation": {"hash": "1"}})
    write_run(tmp_path / "b", seed=1, manifest={"validation": {"hash": "2"}})
    assert compared(tmp_path).warnings == []


def test_other_numbers_of_steps_and_classes_of_other_projects_are_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "a", width=32)
    other = write_run(tmp_path / "b", width=64, result={"step": 32})
    settings = other / "settings.yaml"
    settings.write_text(settings.read_text().replace("synthetic.Synthetic", "elsewhere.Data"))
    warnings = " ".join(compared(tmp_path).warnings)
    assert "steps: " in warnings
    assert "elsewhere.Data" in warnings


def test_an_overfitted_run_is_not_compared_with_real_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "real", accuracy=0.9)
    write_run(tmp_path / "overfitted", accuracy=1.0, overfit=1)
    comparison = compared(tmp_path)
    assert comparison.best is not None
    assert comparison.best.runs[0].folder.name == "real"


def test_states_are_found(tmp_path: Path) -> None:
    for state in ("finished", "stopped", "failed"):
        assert read_run(write_run(tmp_path / state, state=state)).state == state
    killed = write_run(tmp_path / "killed", state=None)
    assert read_run(killed).state == "killed"
    with filelock.FileLock(killed / ".lock"):
        assert read_run(killed).state == "running"


def test_a_run_whose_lock_cannot_be_opened_is_not_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", state=None)
    (run / ".lock").unlink()
    (run / ".lock").mkdir()
    found = read_run(run)
    assert found.state == "unknown"
    assert not found.is_complete


def test_only_finished_runs_are_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "a", accuracy=0.90)
    write_run(tmp_path / "b", accuracy=0.95, state="stopped", seed=1)
    write_run(tmp_path / "c", accuracy=0.96, state=None, seed=2)
    comparison = compared(tmp_path)
    assert len(comparison.rows) == 3
    assert [row.runs[0].folder.name for row in comparison.compared] == ["a"]


def test_rows_that_are_not_compared_say_why(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """`sweep.py --halving` leaves stopped runs."""
    write_run(tmp_path / "runs/a", accuracy=0.90)
    write_run(tmp_path / "runs/b", width=64, state="stopped", result={"step": 16})
    write_run(tmp_path / "runs/c", width=96, accuracy=None)
    write_run(tmp_path / "runs/d", width=128, overfit=2)
    assert command("compare", "--csv", "table.csv") == 0
    output = capsys.readouterr().out
    assert "stopped at step 16 of 64" in output
    assert "Not compared: 1 run" in output
    with Path("table.csv").open(encoding="utf-8", newline="") as file:
        verdicts = {row["run"]: row["verdict"] for row in csv.DictReader(file)}
    assert verdicts == {
        "a": "best",
        "b": "not finished",
        "c": "no finite accuracy",
        "d": "overfit=2",
    }


def test_a_run_that_has_diverged_is_not_counted(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_seeds(tmp_path / "runs/a", [0.90, 0.92])
    for seed, value in ((2, float("nan")), (3, 1e301)):
        best = {"metric": "accuracy", "direction": "highest", "value": value, "step": 48}
        folder = tmp_path / f"runs/a/seed={seed}"
        write_run(folder, accuracy=None, seed=seed, result={"best": best})
    (row,) = compared(tmp_path / "runs").rows
    assert row.values == [0.92, 0.90]
    assert command("compare") == 0
    assert "2 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("values", [[1e299, 2e299, 4e299], [1e-299, 2e-299, 4e-299]])
def test_values_of_any_magnitude_are_compared(
    tmp_path: Path, command: Callable[..., int], values: list[float]
) -> None:
    write_seeds(tmp_path / "runs/a", values)
    write_seeds(tmp_path / "runs/b", [2 * value for value in values], width=64)
    verdicts = {row.verdict.text for row in compared(tmp_path / "runs").rows if row.verdict}
    assert verdicts == {"best", "within noise"}
    assert command("compare", "--html", "--md") == 0


def test_broken_files_are_stated_in_rows(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for name in ("settings.yaml", "manifest.json", "result.json"):
        (write_run(runs / name.partition(".")[0]) / name).write_text('{"a": [1,')
    log = write_run(runs / "log", state=None) / "metrics.csv"
    log.write_bytes(log.read_bytes()[:-4])
    (write_run(runs / "empty log") / "metrics.csv").write_text("")
    settings = write_run(runs / "few settings") / "settings.yaml"
    settings.write_text(settings.read_text().partition("checkpoint:")[0])
    settings = write_run(runs / "half a setting") / "settings.yaml"
    settings.write_text(settings.read_text()[:-5])
    (runs / "early").mkdir()
    (runs / "early/.pid").write_text("1")
    assert command("compare", "--html", "page.html") == 0
    output = capsys.readouterr().out
    for problem in ("settings.yaml ", "manifest.json is no", "result.json is no"):
        assert problem in output
    assert "metrics.csv ends in the middle of a row" in output
    assert "manifest.json is missing" in output
    assert "metrics.csv is empty" in output
    assert "lacks checkpoint.monitor" in output
    assert "middle of a line" in output
    assert Path("page.html").exists()
    assert not any(run.is_complete for run in find_runs([runs]))


def test_half_a_value_is_not_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", accuracy=0.9, state=None)
    log = run / "metrics.csv"
    complete = read_run(run).values
    log.write_bytes(log.read_bytes()[:-4])  # the last number lacks digits now
    assert read_run(run).values == complete[:-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere",), "nowhere does not exist"),
        (("empty",), "manifest.json"),
        (("runs/a/settings.yaml",), "is a file"),
        (("--metric", "acuracy"), "did you mean accuracy?"),
        (("--metric", "test/accuracy"), "test set"),
        (("--by", "model.widht"), "did you mean model.width?"),
        (("--tag", "ablaton"), "did you mean ablation?"),
        (("--remove",), "--failed"),
        (("--failed", "--yes"), "--remove"),
        (("--failed", "--html"), "--html"),
        (("--html", "empty"), "compare.py empty --html"),
        (("--html", "."), "--html"),
        (("--html", "page.txt"), ".html"),
        (("--csv", "runs/a/metrics.csv"), "file of a run"),
        (("--csv", "runs/a/evaluation/test/predictions.csv"), "file of a run"),
        (("--csv", "runs/a/metrics.csv/x.csv"), "not a folder"),
        (("--colour",), "--colour"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    run = write_run(tmp_path / "runs/a", manifest={"tags": ["ablation"]})
    before = (run / "metrics.csv").read_bytes()
    (tmp_path / "empty").mkdir()
    (run / "evaluation/test").mkdir(parents=True)
    (run / "evaluation/test/predictions.csv").touch()
    assert command("compare", *arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.splitlines()) <= 2
    assert (run / "metrics.csv").read_bytes() == before


def test_tags_and_notes_are_shown_and_select_runs(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs/a", manifest={"tags": ["ablation"], "note": "wider"}, width=64)
    write_run(tmp_path / "runs/b")
    assert command("compare") == 0
    assert "wider" in capsys.readouterr().out
    assert command("compare", "--tag", "ablation") == 0
    assert "1 run;" in capsys.readouterr().out


def test_failed_runs_are_removed_after_a_confirmation(
    tmp_path: Path,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_run(tmp_path / "runs/good")
    failed = write_run(tmp_path / "runs/bad", state="failed", result={"error": "no memory"})
    killed = write_run(tmp_path / "runs/killed", state=None)
    running = write_run(tmp_path / "runs/running", state=None)
    with filelock.FileLock(running / ".lock"):
        assert command("compare", "--failed") == 0
        assert "no memory" in capsys.readouterr().out
        monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
        assert command("compare", "--failed", "--remove") == 0
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        assert command("compare", "--failed", "--remove") == 2
        assert "--yes" in capsys.readouterr().err
        assert failed.exists()
        assert command("compare", "--failed", "--remove", "--yes") == 0
    assert not failed.exists()
    assert not killed.exists()
    assert running.exists()
    assert (tmp_path / "runs/good").exists()


def test_runs_that_continue_or_belong_to_a_sweep_are_kept(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    failed: dict[str, Any] = {"state": "failed", "result": {"error": "no memory"}}
    removable = [write_run(tmp_path / f"runs/{name}", **failed) for name in ("a", "c")]
    in_use = write_run(tmp_path / "runs/b", **failed)
    (tmp_path / "runs/lr").mkdir()
    (tmp_path / "runs/lr/sweep.yaml").touch()
    trials = [tmp_path / "runs/lr/0000", tmp_path / "runs/lr/0001/seed=0"]
    for trial in trials:
        write_run(trial, **failed)
    with filelock.FileLock(in_use / ".lock"):
        assert command("compare", "--failed", "--remove", "--yes") == 2
    message = capsys.readouterr().err
    assert "runs/b is in use" in message
    assert message.count("sweep.py --name lr --clean failed") == 2
    assert [run.exists() for run in (*removable, in_use, *trials)] == [False, False, *[True] * 3]


def test_a_run_that_was_resumed_and_killed_again_is_kept(tmp_path: Path) -> None:
    killed = read_run(write_run(tmp_path / "a", state=None))
    manifest = json.loads((killed.folder / "manifest.json").read_text())
    manifest["resumed"] = "2026-12-02T10:00:00+00:00"
    (killed.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="continued meanwhile"):
        remove_run(killed)
    assert killed.folder.exists()


def test_two_runs_are_compared_in_everything(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", width=32, manifest={"versions": {"torch": "2.14.0"}})
    second = write_run(tmp_path / "b", width=64, accuracy=0.91, name="other")
    true = ["cat", "dog"] * 20
    write_evaluation(first, predicted=true, true=true)
    write_evaluation(second, predicted=["cat"] * 40, true=true)
    assert command("compare", first, second, "--html", "page.html") == 0
    captured = capsys.readouterr()
    output = captured.out
    for expected in ("model.width", "2.14.0", "other", "0.9100", "McNemar", "sample 1 "):
        assert expected in output
    assert "p = 1.9e-06" in output  # 2 / 2 ** 20
    assert "no images of samples" in captured.err  # these runs have no checkpoint
    assert "McNemar" in Path("page.html").read_text(encoding="utf-8")


def evaluated_copy(run: Path, copy: Path, fingerprint: str) -> Path:
    """A copy of a run with the metrics.json of an evaluation of data with this fingerprint."""
    shutil.copytree(run, copy)
    folder = copy / "evaluation/test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return copy


def test_samples_are_drawn_by_their_names(
    trained_run: Path, tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    run = evaluated_copy(trained_run, tmp_path / "run", splits["test"].fingerprint)
    dataset = load_evaluated_data(run, "test")
    assert dataset is not None
    image = draw_samples(dataset, {"sample 7": "a", "sample 3": "b"}, "two samples")
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert draw_samples(dataset, {"other": "a"}, "none") is None


def test_samples_of_other_data_than_those_of_the_evaluation_are_not_drawn(
    trained_run: Path, tmp_path: Path
) -> None:
    run = evaluated_copy(trained_run, tmp_path / "run", "of other data")
    assert load_evaluated_data(run, "test") is None


def test_of_several_samples_with_the_same_name_one_is_drawn(
    splits: dict[str, BaseDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def draw(dataset: BaseDataset, batch: Any, heading: str, titles: list[str]) -> None:
        drawn.append(len(batch["input"]))

    dataset = splits["test"]
    monkeypatch.setattr(type(dataset), "sample_name", lambda dataset, index: f"name {index % 3}")
    monkeypatch.setattr(type(dataset), "draw", draw)
    assert draw_samples(dataset, {"name 1": "a", "name 2": "b"}, "two samples") is None
    assert drawn == [2]


def test_samples_of_different_evaluations_are_not_compared(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", width=32)
    second = write_run(tmp_path / "b", width=64)
    write_evaluation(first, predicted=["cat", "dog"], true=["cat", "dog"])
    write_evaluation(second, predicted=["cat", "dog"], true=["dog", "cat"])
    assert command("compare", first, second) == 0
    output = capsys.readouterr().out
    assert "true values" in output
    assert "McNemar" not in output


def test_results_of_an_ensemble_are_not_those_of_its_first_run(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", width=32)
    second = write_run(tmp_path / "b", width=64)
    for run in (first, second):
        write_evaluation(run, predicted=["cat"], true=["cat"], split="joint")
    file = first / "evaluation/joint/metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**metrics, "ensemble": 2, "accuracy": 0.123}), encoding="utf-8")
    assert command("compare", first, second) == 0
    output = capsys.readouterr().out
    assert "0.123" not in output
    assert "McNemar" not in output


def test_the_page_does_not_change_the_order_of_the_other_reports(
    widths: Path, command: Callable[..., int]
) -> None:
    assert command("compare", widths, "--csv", "alone.csv") == 0
    assert command("compare", widths, "--html", "page.html", "--csv", "both.csv") == 0
    assert Path("both.csv").read_text() == Path("alone.csv").read_text()


def test_csv_has_full_precision(widths: Path, command: Callable[..., int]) -> None:
    assert command("compare", widths, "--csv") == 0
    with (widths / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    means = {row["model.width"]: float(row["accuracy mean"]) for row in rows}
    assert means["64"] == pytest.approx((0.931 + 0.935 + 0.930 + 0.933) / 4, abs=1e-12)


def test_names_of_any_script_are_aligned_and_escaped(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "실험 <b>|x"
    write_run(runs / "너비 64", width=64)
    write_run(runs / "narrow", width=32)
    assert command("compare", runs, "--html", "page.html", "--md", "page.md") == 0
    lines = capsys.readouterr().out.splitlines()
    korean = next(line for line in lines if line.startswith("너비 64"))
    other = next(line for line in lines if line.startswith("narrow"))
    # Each of the two Korean letters takes two columns.
    assert korean.index("64 ", 6) + 2 == other.index("32 ")
    assert "<b>" not in Path("page.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(widths: Path, command: Callable[..., int]) -> None:
    run = widths / "1/seed=0"
    write_evaluation(run, predicted=["a", "b", "b"], true=["a", "b", "a"])
    assert command("compare", widths, "--html") == 0
    assert command("compare", run, "--html") == 0
    for folder in (widths, run):
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "prefers-color-scheme" in page
        assert "<svg" in page
        for forbidden in ("<script", "<link", 'src="http', "url(http", "@import"):
            assert forbidden not in page


def test_damaged_intervals_and_matrices_do_not_end_the_page(
    tmp_path: Path, command: Callable[..., int]
) -> None:
    for index, intervals in enumerate(([0.8, 0.9], [0.8], ["a", None], {"low": 1}, 3)):
        run = write_run(tmp_path / f"runs/{index}")
        write_evaluation(run, predicted=["a", "b"], true=["a", "b"])
        file = run / "evaluation/test/metrics.json"
        metrics = json.loads(file.read_text())
        file.write_text(json.dumps({**metrics, "intervals": {"accuracy": intervals}}))
        (run / "evaluation/test/confusion_matrix.csv").write_text("a,b\n1")
        assert command("compare", run, "--html") == 0
    assert "0.80 to 0.90" in (tmp_path / "runs/0/report.html").read_text(encoding="utf-8")


def test_the_best_row_is_described_with_its_distance(
    widths: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("compare", widths / "0", widths / "1") == 0
    assert "by 0.03" in capsys.readouterr().out  # 0.93225 - 0.90175


def test_a_narrow_terminal_gets_paragraphs(widths: Path) -> None:
    from experiments.tables import comparison_table, format_console
    from logger.console import display_width

    table = comparison_table(compared(widths))
    text = format_console(table, width=40)
    assert max(display_width(line) for line in text.splitlines()) <= 40
    assert "model.width: 64" in text


def test_links_do_not_lead_in_circles(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a")
    (tmp_path / "runs/again").symlink_to(tmp_path / "runs", target_is_directory=True)
    assert len(list(run_folders(tmp_path / "runs"))) == 1
    assert len(find_runs([tmp_path / "runs", tmp_path / "runs/a"])) == 1


def test_torch_is_not_imported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/a")
    write_metrics(run / "metrics.csv", 0.9)
    code = (
        "import sys; sys.argv = ['compare.py', '--html']; import compare; compare.main(); "
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
