"""Projects with other examples: each has its own files and needs, and all that it says works."""

import ast
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import FILES, OPTIONS, PAYLOAD, PROMPTS, files_of, foreign, needs_all, render, run
from test_adapt import COMPARE
from test_project import bash_blocks, run_bash
from test_rendering import parse_all

OTHERS = [name for name in FILES if name != "fashion_mnist"]
# What the default settings of an example have to reach on the test split.
GOALS = {"image_csv": 0.9, "tabular_csv": 0.8, "text_csv": 0.95, "regression": 0.99, "bare": 0.9}
PACKAGES = {"PIL": "pillow", "ruamel": "ruamel.yaml"}  # whose modules have other names
OPTIONAL = {"onnxruntime", "onnxscript"}


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples make their data in their own folder."""
    monkeypatch.delenv("DATA_ROOT", raising=False)


@pytest.fixture(scope="module", params=OTHERS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project with an example; its folder is named after that."""
    folder = tmp_path_factory.mktemp("examples")
    done = render(folder, project_slug=f"with-{request.param}", example=request.param)
    assert done.returncode == 0, done.stdout
    return folder / f"with-{request.param}"


def example_of(project: Path) -> str:
    return project.name.removeprefix("with-")


def imports_of(file: Path) -> set[str]:
    """The modules that a file imports, as far as they can be told from packages."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return found


def test_the_files_of_each_choice_are_there() -> None:
    for option, choices in OPTIONS.items():
        assert PROMPTS[option] == [*choices]
        assert all((PAYLOAD / file).is_file() for files in choices.values() for file in files)
    assert all(files[0].startswith("config/") for files in FILES.values())


def test_a_project_has_one_examples_files_and_nothing_of_the_others(
    project: Path, default_project: Path
) -> None:
    own, names = example_of(project), set(files_of(project))
    common = set(files_of(default_project)) - {*FILES["fashion_mnist"]}
    assert names == common | {*FILES[own]}
    parse_all(project)
    default = project / "config" / (project / "config/default.txt").read_text().strip()
    assert default.relative_to(project).as_posix() == FILES[own][0]
    readme = (project / "README.md").read_text(encoding="utf-8")
    for file in foreign(example=own):
        assert file not in readme
    for name in names - {"notebooks/explore.ipynb"}:
        assert b"FashionMNIST" not in (project / name).read_bytes(), name
    assert "\n\n\n" not in re.sub(r"```.*?```", "code", readme, flags=re.DOTALL)


def test_what_a_project_imports_is_there_and_is_declared(project: Path) -> None:
    toml = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    declared = {re.split("[>=]", text)[0] for text in toml["project"]["dependencies"]}
    used: set[str] = set()
    for file in project.rglob("*.py"):
        for module in imports_of(file):
            first, *_ = module.split(".")
            if (project / first).is_dir() or (project / f"{first}.py").is_file():
                place = project / module.replace(".", "/")
                assert place.is_dir() or place.with_suffix(".py").is_file(), (file, module)
            elif first not in sys.stdlib_module_names | OPTIONAL and "tests" not in file.parts:
                used.add(PACKAGES.get(first, first))
    assert used == declared


def test_an_example_trains_as_its_readme_says_and_resumes_exactly(project: Path) -> None:
    if example_of(project) != "image_csv" and "ALL" not in os.environ:
        pytest.skip("make test-all does this one, too")
    for commands in bash_blocks(project / "README.md", "Commands"):
        run_bash(commands, project)
    folder = project / "runs/first"
    metrics = json.loads((folder / "evaluation/test/metrics.json").read_text())
    name = "r2" if example_of(project) == "regression" else "f1"
    assert metrics[name] > GOALS[example_of(project)], metrics
    pictures = {file.stem for file in (folder / "evaluation/test").glob("*.png")}
    assert pictures & {"confusion_matrix", "curve"} or example_of(project) == "bare"

    # As if it had been killed before the last epoch.
    part = shutil.copytree(folder, project / "runs/part")
    newest = max((part / "checkpoints").glob("step_*.pt"))
    for file in (newest, part / "checkpoints/last.pt", part / "checkpoints/best.pt"):
        file.unlink()
    done = run("python", "train.py", "--resume", part, cwd=project)
    assert done.returncode == 0, done.stdout
    done = run("python", "-c", COMPARE, folder, part, cwd=project)
    assert done.stdout.strip() == "[]", done.stdout


@needs_all
def test_an_examples_model_can_be_shared_out(project: Path) -> None:
    """In two processes that each hold a share of it, it has the losses that it has in one."""
    few = ["device=cpu", "trainer.precision=fp32", "optimizer.lr=1e-3"]
    few += ["trainer.max_steps=3", "logger.every_steps=1"]
    if example_of(project) == "text_csv":  # dropout differs between processes
        few += ["model.dropout=0"]
    torchrun = ["torchrun", "--standalone", "--nproc-per-node=2"]
    losses = []
    for start in (["python"], torchrun):
        folder = f"runs/{start[0]}"
        command = [*start, "train.py", *few, "trainer.strategy=fsdp", "--run-dir", folder]
        done = run(*command, cwd=project, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stdout
        rows = (project / folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
        losses.append([float(row.split(",")[-1]) for row in rows if ",loss," in row])
    assert len(losses[0]) == 4  # the last is of the validation
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    done = run("python", "evaluate.py", project / "runs/torchrun", "device=cpu", cwd=project)
    assert done.returncode == 0, done.stdout


@needs_all
def test_the_notebook_shows_an_examples_own_data(project: Path) -> None:
    notebook = json.loads((project / "notebooks/explore.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    code = "\n".join(cells) + "\nprint(sum(losses[-10:]) < 0.9 * sum(losses[:10]))"
    done = run("python", "-c", code, cwd=project, MPLBACKEND="Agg")
    assert done.stdout.splitlines()[-1] == "True", done.stdout


def test_a_project_that_does_not_need_torchvision_does_without(project: Path) -> None:
    """In an environment that lacks it, which the one of the tests does not."""
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    if '"torchvision>=' in text:
        pytest.skip("this example needs it")
    code = "import sys; sys.modules['torchvision'] = None\nimport train; train.main()"
    options = ["--run-dir", "runs/without", "trainer.max_steps=2", "device=cpu"]
    done = run("python", "-c", code, *options, cwd=project)
    assert done.returncode == 0, done.stdout
    manifest = json.loads((project / "runs/without/manifest.json").read_text(encoding="utf-8"))
    assert manifest["versions"].keys() == {"torch", "numpy"}


def test_no_file_names_the_settings_of_another_example(project: Path) -> None:
    others = {file for file in foreign(example=example_of(project)) if file.endswith(".yaml")}
    for name, content in files_of(project).items():
        if name.split("/")[0] not in ("data", "runs") and not name.endswith(".pyc"):
            for file in others:
                assert Path(file).name.encode() not in content, (name, file)
