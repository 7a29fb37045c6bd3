"""The default project: its checks, its documented commands, and a real training run."""

import json
import os
import re
import shutil
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import PAYLOAD, TEMPLATE, needs_all, render, run
from project_pages import bash_blocks, write_shown_files

DATA_ROOT = os.environ.get("DATA_ROOT")
# Without most tests of several processes, which take minutes.
SAMPLE = "not (distributed or sharded or nodes) or same_model or loses and ddp or evaluation_counts"
# With one test of several processes, and without the slowest others.
QUICK = (
    "not (distributed or sharded or shards_train or one_and_two_processes or nodes or eight_others"
    " or hundred_million or prepares_an_image or promoted_and_killed or with_spawn"
    " or hidden_state or recurrent_layers or sequences_of_any_length or distant_size"
    " or eight_classes or failed_trials_are) or any_number"
)
needs_data = pytest.mark.skipif(
    not DATA_ROOT, reason="DATA_ROOT is not set to a folder with FashionMNIST"
)


def run_bash(commands: str, cwd: Path, **environment: str) -> str:
    """Runs the commands of a page in a shell that stops at the first failure."""
    environment = {"HOME": os.environ["HOME"], **environment}  # for the caches of pip and uv
    done = run("bash", "-euo", "pipefail", "-c", commands, cwd=cwd, **environment)
    assert done.returncode == 0, f"{commands}\n{done.stdout}"
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new default project with all files committed."""
    assert render(tmp_path).returncode == 0
    folder = tmp_path / "my-project"
    run_bash("git add -A && git -c user.name=x -c user.email=x@y commit -qm x", folder)
    return folder


def test_the_projects_own_hooks_pass_and_change_nothing(project: Path, tmp_path: Path) -> None:
    caches = {"PRE_COMMIT_HOME": str(tmp_path / "pre-commit")}
    done = run("pre-commit", "run", "--all-files", cwd=project, **caches)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Passed") == 9, done.stdout
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""


def test_the_projects_own_tests_pass(project: Path) -> None:
    """Excludes most tests of several processes; `make test` excludes other slow tests, too."""
    selection = SAMPLE if "ALL" in os.environ else QUICK
    done = run("pytest", "-q", "-k", selection, cwd=project)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


# Pages whose commands have tests of their own: they need a tracker, or an older template.
TESTED_ELSEWHERE = {"tracking", "updates"}
# The page whose examples `make test` runs; it runs the commands of README.md with another example.
EXAMPLES = ("models",)
PAGES = [
    page.stem
    for page in sorted((PAYLOAD / "docs").glob("*.md"))
    if bash_blocks(page) and page.stem not in TESTED_ELSEWHERE
]
# What the commands of these pages write.
WRITTEN = {
    "models": "runs/sums/export/model.pt2",
    "optimizers": "preview/schedule.png",
    "samplers": "runs/shifted/evaluation/noisy/metrics.json",
}


def run_pages(project: Path, *names: str) -> None:
    """Runs the commands of pages in docs/, which use the files that all pages show."""
    for name in names:
        for commands in bash_blocks(project / f"docs/{name}.md"):
            run_bash(commands, project)
        if name in WRITTEN:
            assert (project / WRITTEN[name]).exists()
        if name == "models":
            metrics = project / "runs/rings/classifier/evaluation/test/metrics.json"
            assert json.loads(metrics.read_text())["accuracy"] > 0.9


@needs_all
def test_the_readmes_commands_work(project: Path) -> None:
    """`make test` runs those of one other example (test_examples.py)."""
    for heading in ("Commands", "Experiments"):
        for commands in bash_blocks(project / "README.md", heading):
            run_bash(commands, project)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_work_and_change_no_file(project: Path, name: str) -> None:
    if name not in EXAMPLES and "ALL" not in os.environ:
        pytest.skip("only make test-all runs this page")
    write_shown_files(project)
    run_pages(project, name)
    changed = run("git", "status", "--porcelain", "--untracked-files=no", cwd=project).stdout
    assert changed == ""


@needs_all
def test_the_files_that_the_pages_show_pass_the_linter_and_the_type_checker(project: Path) -> None:
    write_shown_files(project)
    run_bash("ruff check . && ruff format --check . && mypy .", project)


def test_the_commands_for_agents_work(project: Path) -> None:
    text = (project / "AGENTS.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^( *)```bash\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```bash")
    for _, commands in blocks:
        if "mypy" not in commands or "ALL" in os.environ:  # other tests run these checks
            run_bash(dedent(commands), project)
    assert (project / "runs/try/evaluation/test/predictions.csv").exists()
    assert (project / "CLAUDE.md").read_text() == "@AGENTS.md\n"


@pytest.mark.parametrize("optimizer", ["SGD", "muon.MuonAndAdamW"])
def test_training_does_not_import_slow_modules_that_it_does_not_need(
    tmp_path: Path, optimizer: str
) -> None:
    """Each of these takes longer to import than the whole start of training should take."""
    heavy = {"matplotlib.figure", "torch._dynamo", "torchmetrics", "torchvision"}
    code = f"import sys, train\ntrain.main()\nprint({heavy} & {{*sys.modules}} or 'none')"
    options = ["--config", "config/synthetic.yaml", "--run-dir", str(tmp_path / "run")]
    options += ["trainer.max_steps=2", "trainer.ema=0.9", "trainer.clip_norm=1"]
    options += [f"optimizer.name={optimizer}", "optimizer.lr=0.05"]
    options += ["logger.curves=false"]  # which are drawn after training
    done = run("python", "-c", code, *options, "logger.tensorboard=false", cwd=PAYLOAD)
    assert done.stdout.splitlines()[-1] == "none", done.stdout


# The same comparison as in the project's tests/test_transfer.py, with FashionMNIST.
TRANSFER = """
import os, sys
from pathlib import Path
from builders import build_dataset
from config.loading import load_settings
sys.path.append("tests")
from test_transfer import errors
config = Path("config/fashion_mnist.yaml").resolve()
quick = ["logger.tensorboard=false", "data.batch_size=50", "optimizer.lr=0.05"]
settings = lambda *changes: load_settings(config, [*quick, *changes])
splits = {split: build_dataset(settings(), split) for split in ("train", "validation")}
splits["validation"].load_state_dict(splits["train"].state_dict())
os.chdir(sys.argv[1])
moved, new = errors(splits, (2, 4), settings)  # pullovers and coats
print(moved, new, bool((moved < new).all() and moved.mean() < 0.8 * new.mean()))
"""


@needs_data
@needs_all
def test_pretraining_on_eight_classes_helps_to_learn_the_other_two(
    tmp_path: Path, project: Path
) -> None:
    done = run("python", "-c", TRANSFER, tmp_path, cwd=project)
    assert done.stdout.split()[-1] == "True", done.stdout


@needs_all
def test_the_readmes_commands_for_pip_train(project: Path) -> None:
    (_, second) = bash_blocks(project / "README.md", "Start")
    if not DATA_ROOT:
        second = second.replace("train.py", "train.py --config config/synthetic.yaml")
    try:
        run_bash(second.replace("train.py", "train.py trainer.max_steps=20"), project)
    finally:
        shutil.rmtree(project / ".venv", ignore_errors=True)  # 6 GB


def test_unavailable_data_gives_exit_code_69_and_says_what_to_do(project: Path) -> None:
    arguments = ("data.root=nowhere", 'data.mirrors=["http://127.0.0.1:9/"]')
    done = run("python", "train.py", *arguments, cwd=project, DATA_ROOT=str(project / "nowhere"))
    assert done.returncode == 69, done.stdout
    assert "Traceback" not in done.stdout
    for text in ("http://127.0.0.1:9/", "nowhere/FashionMNIST/raw", "config/synthetic.yaml"):
        assert text in done.stdout
    assert not list(project.glob("runs/*/*"))


@needs_data
@needs_all
def test_make_demo_trains_and_evaluates(tmp_path: Path) -> None:
    assert DATA_ROOT is not None
    out = run("make", "demo", cwd=TEMPLATE, HOME=os.environ["HOME"]).stdout
    assert "FashionMNIST  precision" in out, out
    assert "tensorboard --logdir" in out


def test_the_templates_readme_commands_reach_ninety_percent_accuracy(tmp_path: Path) -> None:
    """Uses uv and a new environment; without DATA_ROOT, trains on synthetic data."""
    (commands,) = bash_blocks(TEMPLATE / "README.md", "Start")
    local = commands.replace("gh:org/torch-template", f"{TEMPLATE} --no-input --default-config")
    assert local != commands
    if not DATA_ROOT:
        local = local.replace("train.py", "train.py --config config/synthetic.yaml")
    project = tmp_path / "my-project"
    try:
        run_bash(local, tmp_path, VIRTUAL_ENV="")
    finally:
        shutil.rmtree(project / ".venv", ignore_errors=True)  # 6 GB
    (start, _) = bash_blocks(project / "README.md", "Start")
    assert commands.endswith(start)
    assert shutil.which("git") is None or (project / ".git").exists()
    (folder,) = project.glob("runs/*/*")
    output = run("python", "evaluate.py", folder, cwd=project).stdout
    metrics = json.loads((folder / "evaluation/test/metrics.json").read_text())
    assert metrics["samples"] == (10_000 if DATA_ROOT else 2000)
    assert metrics["accuracy"] >= 0.9, output
