"""Projects that log to MLflow or Weights & Biases as well."""

import os
import tomllib
from pathlib import Path

import pytest
from conftest import OPTIONS, PAYLOAD, files_of, foreign, needs_all, render, run
from project_pages import bash_blocks
from test_examples import imports_of
from test_project import run_bash
from test_rendering import parse_all

TRACKERS = {"mlflow": {"mlflow-skinny", "sqlalchemy", "alembic"}, "wandb": {"wandb"}}


@pytest.fixture(scope="module", params=TRACKERS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project with a tracker, which is part of its folder's name."""
    folder = tmp_path_factory.mktemp("trackers")
    done = render(folder, project_slug=f"my-{request.param}", experiment_tracker=request.param)
    assert done.returncode == 0, done.stdout
    return folder / f"my-{request.param}"


def extras_of(project: Path) -> dict[str, list[str]]:
    """Returns the optional dependencies by extra."""
    toml = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    extras: dict[str, list[str]] = toml["project"]["optional-dependencies"]
    return extras


def test_a_tracker_is_only_in_projects_that_select_it(project: Path, default_project: Path) -> None:
    own = project.name.removeprefix("my-")
    assert set(TRACKERS) == set(OPTIONS["experiment_tracker"]) - {"tensorboard"}
    names = set(files_of(project))
    assert names == set(files_of(default_project)) | {*OPTIONS["experiment_tracker"][own]}
    assert not names & foreign(experiment_tracker=own)
    extras, usual = extras_of(project), extras_of(default_project)
    assert extras.keys() == usual.keys() | {own}
    assert {text.split(">=")[0] for text in extras[own]} == TRACKERS[own]
    assert f"{project.name}[metrics,onnx,sweep,{own}]" in extras["dev"]
    assert "my-project[metrics,onnx,sweep]" in usual["dev"]
    modules = imports_of(project / f"logger/{own}_tracker.py")
    assert own in {module.split(".")[0] for module in modules}
    for folder, trackers in ((project, {own}), (default_project, set[str]())):
        page = (folder / "docs/tracking.md").read_text(encoding="utf-8")
        assert {name for name in TRACKERS if f"logger.tracker={name}" in page} == trackers
    parse_all(project)


def test_the_documented_commands_for_a_tracker_work(project: Path) -> None:
    own = project.name.removeprefix("my-")
    if own == "mlflow" and "ALL" not in os.environ:
        pytest.skip("only make test-all runs the commands of this tracker")
    pytest.importorskip(own)
    for commands in bash_blocks(project / "docs/tracking.md"):
        run_bash(commands, project)
    left = {"mlflow": "mlflow.db", "wandb": f"runs/shown/wandb/offline-run-*/run-*.{own}"}
    assert len([*project.glob(left[own])]) == 1
    done = run("git", "status", "--porcelain", "--ignored", cwd=project)
    ignored = {line[3:] for line in done.stdout.splitlines() if line.startswith("!!")}
    assert {"mlflow": "mlflow.db", "wandb": "runs/"}[own] in ignored


@needs_all
def test_the_tests_of_a_tracker_pass(project: Path) -> None:
    own = project.name.removeprefix("my-")
    pytest.importorskip(own)
    done = run("pytest", "-q", f"tests/test_{own}_tracker.py", cwd=project)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_the_tests_of_a_tracker_are_skipped_without_its_package() -> None:
    """The payload contains all trackers; the import of each package is blocked."""
    for own in TRACKERS:
        code = f"import sys; sys.modules[{own!r}] = None; import pytest; sys.exit(pytest.main())"
        options = ["-q", "-n0", "-p", "no:cacheprovider", f"tests/test_{own}_tracker.py"]
        done = run("python", "-c", code, *options, cwd=PAYLOAD)
        assert "1 skipped" in done.stdout, done.stdout
