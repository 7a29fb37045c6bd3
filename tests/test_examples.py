"""Projects with the other examples: their files, dependencies and documented commands."""

import ast
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import CHOICES, FILES, OPTIONS, PAYLOAD, files_of, foreign, needs_all, render, run
from project_pages import bash_blocks, faults_of, pages_of
from test_adapt import COMPARE
from test_project import run_bash
from test_rendering import parse_all

OTHERS = [name for name in FILES if name != "fashion_mnist"]
# The lowest metric on the test split with the default settings of an example.
GOALS = {"image_csv": 0.9, "tabular_csv": 0.8, "text_csv": 0.95, "regression": 0.99, "bare": 0.9}
PACKAGES = {"PIL": "pillow", "ruamel": "ruamel.yaml"}  # packages whose modules have other names
OPTIONAL = {"onnxruntime", "onnxscript", "openpyxl", "optuna"}


SETTINGS_OF_ALL_EXAMPLES = """
from pathlib import Path
from config.classes import list_classes
from config.constructors import class_settings
from config.loading import load_settings, to_yaml
from config.schema import DataSettings, ModelSettings, TrainerSettings

for section in (DataSettings, ModelSettings, TrainerSettings):
    listing = list_classes(section.package, section.base)
    assert listing.failures == {}
    for name, cls in listing.classes.items():
        settings = class_settings(cls, section, name)
        assert settings.unusable == {}, name
        for argument, field in settings.fields.items():
            assert field.description, f"{name}: {argument} is not described"
for file in Path("config").glob("*.yaml"):
    settings = load_settings(file, ["scheduler={name: cosine, warmup: 0.1}"])
    written = Path(WRITTEN, file.name)
    written.write_text(to_yaml(settings), encoding="utf-8")
    assert load_settings(written) == settings, file
    print(file.name)
"""


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples generate their data in their own folder."""
    monkeypatch.delenv("DATA_ROOT", raising=False)


@pytest.fixture(scope="module", params=OTHERS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project with an example, which is part of its folder's name."""
    folder = tmp_path_factory.mktemp("examples")
    done = render(folder, project_slug=f"with-{request.param}", example=request.param)
    assert done.returncode == 0, done.stdout
    return folder / f"with-{request.param}"


def example_of(project: Path) -> str:
    return project.name.removeprefix("with-")


def imports_of(file: Path) -> set[str]:
    """Returns the names of the modules and packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return found


def test_the_files_of_each_choice_exist() -> None:
    for option, choices in OPTIONS.items():
        assert CHOICES[option] == [*choices]
        for file in [file for files in choices.values() for file in files]:
            assert (PAYLOAD / file).exists()
            assert (PAYLOAD / file).is_dir() == file.endswith("/")
    assert all(files[0].startswith("config/") for files in FILES.values())


def test_all_settings_are_described_and_read_as_they_are_written(tmp_path: Path) -> None:
    code = SETTINGS_OF_ALL_EXAMPLES.replace("WRITTEN", repr(str(tmp_path)))
    done = run("python", "-c", code, cwd=PAYLOAD)
    assert done.returncode == 0, done.stdout
    names = {Path(files[0]).name for files in FILES.values()}
    assert names <= {*done.stdout.split()}


def test_a_project_contains_the_files_of_one_example_and_no_text_about_others(
    project: Path, default_project: Path
) -> None:
    own, names = example_of(project), set(files_of(project))
    common = set(files_of(default_project)) - {*FILES["fashion_mnist"]}
    assert names == common | {*FILES[own]}
    parse_all(project)
    default = project / "config" / (project / "config/default.txt").read_text().strip()
    assert default.relative_to(project).as_posix() == FILES[own][0]
    for page in pages_of(project):
        text = page.read_text(encoding="utf-8")
        assert not [file for file in foreign(example=own) if file in text], page
    for name in names - {"notebooks/explore.ipynb"}:
        assert b"FashionMNIST" not in (project / name).read_bytes(), name
    assert faults_of(project) == []


def test_imported_modules_exist_and_dependencies_are_declared(project: Path) -> None:
    toml = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    declared = {re.split("[>=]", text)[0] for text in toml["project"]["dependencies"]}
    used: set[str] = set()
    for file in project.rglob("*.py"):
        for module in imports_of(file):
            first, *_ = module.split(".")
            if (project / first).is_dir() or (project / f"{first}.py").is_file():
                path = project / module.replace(".", "/")
                assert path.is_dir() or path.with_suffix(".py").is_file(), (file, module)
            elif first not in sys.stdlib_module_names | OPTIONAL and "tests" not in file.parts:
                used.add(PACKAGES.get(first, first))
    assert used == declared


def test_the_readmes_commands_train_an_example_and_it_resumes_exactly(project: Path) -> None:
    if example_of(project) != "tabular_csv" and "ALL" not in os.environ:
        pytest.skip("only make test-all runs this example")
    for commands in bash_blocks(project / "README.md", "Commands"):
        run_bash(commands, project)
    folder = project / "runs/first"
    metrics = json.loads((folder / "evaluation/test/metrics.json").read_text())
    name = "r2" if example_of(project) == "regression" else "f1"
    assert metrics[name] > GOALS[example_of(project)], metrics
    pictures = {file.stem for file in (folder / "evaluation/test").glob("*.png")}
    assert pictures & {"confusion_matrix", "curve"} or example_of(project) == "bare"

    # The state after a kill before the last epoch.
    part = shutil.copytree(folder, project / "runs/part")
    newest = max((part / "checkpoints").glob("step_*.pt"))
    for file in (newest, part / "checkpoints/last.pt", part / "checkpoints/best.pt"):
        file.unlink()
    done = run("python", "train.py", "--resume", part, cwd=project)
    assert done.returncode == 0, done.stdout
    done = run("python", "-c", COMPARE, folder, part, cwd=project)
    assert done.stdout.strip() == "[]", done.stdout


@needs_all
def test_a_sharded_example_has_the_losses_of_one_process(project: Path) -> None:
    """FSDP in two processes gives the same losses as training in one process."""
    options = ["device=cpu", "trainer.precision=fp32", "optimizer.lr=1e-3"]
    options += ["trainer.max_steps=3", "logger.every_steps=1"]
    if example_of(project) == "text_csv":  # dropout masks differ between processes
        options += ["model.dropout=0"]
    torchrun = ["torchrun", "--standalone", "--nproc-per-node=2"]
    losses = []
    for start in (["python"], torchrun):
        folder = f"runs/{start[0]}"
        command = [*start, "train.py", *options, "trainer.strategy=fsdp", "--run-dir", folder]
        done = run(*command, cwd=project, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stdout
        rows = (project / folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
        losses.append([float(row.split(",")[-1]) for row in rows if ",loss," in row])
    assert len(losses[0]) == 4  # the last one is the validation loss
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    done = run("python", "evaluate.py", project / "runs/torchrun", "device=cpu", cwd=project)
    assert done.returncode == 0, done.stdout


@needs_all
def test_the_notebook_trains_on_the_data_of_its_example(project: Path) -> None:
    notebook = json.loads((project / "notebooks/explore.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    code = "\n".join(cells) + "\nprint(sum(losses[-10:]) < 0.9 * sum(losses[:10]))"
    done = run("python", "-c", code, cwd=project, MPLBACKEND="Agg")
    assert done.stdout.splitlines()[-1] == "True", done.stdout


def test_an_example_without_torchvision_trains_when_it_is_not_installed(project: Path) -> None:
    """The environment of the tests contains torchvision, so its import is blocked."""
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    if '"torchvision>=' in text:
        pytest.skip("this example needs torchvision")
    code = "import sys; sys.modules['torchvision'] = None\nimport train; train.main()"
    options = ["--run-dir", "runs/without", "trainer.max_steps=2", "device=cpu"]
    done = run("python", "-c", code, *options, cwd=project)
    assert done.returncode == 0, done.stdout
    manifest = json.loads((project / "runs/without/manifest.json").read_text(encoding="utf-8"))
    assert manifest["versions"].keys() >= {"torch", "numpy"}


def test_no_file_names_the_settings_of_another_example(project: Path) -> None:
    others = {file for file in foreign(example=example_of(project)) if file.endswith(".yaml")}
    for name, content in files_of(project).items():
        if name.split("/")[0] not in ("data", "runs") and not name.endswith(".pyc"):
            for file in others:
                assert Path(file).name.encode() not in content, (name, file)
