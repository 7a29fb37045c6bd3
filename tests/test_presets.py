"""Presets: few questions, no trace of what they leave out, and explicit answers win."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from conftest import (
    PAYLOAD,
    PRESETS,
    PROMPTS,
    QUESTIONS,
    TEMPLATE,
    clone,
    commit,
    default_answers,
    files_of,
    foreign,
    generate,
    render,
    render_typed,
    run,
)
from cookiecutter import prompt
from test_examples import imports_of
from test_hostile_answers import Renderer, from_settings
from test_updates import change, cruft


def answers_of(project: Path) -> dict[str, str]:
    """Returns the answers that a project was generated from."""
    toml = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    answers: dict[str, str] = toml["tool"]["torch-template"]["answers"]
    return answers


def problems_of_imports(project: Path) -> list[str]:
    """Returns a line for each import of a module of the payload that the project does not have."""
    packages = {path.stem for path in PAYLOAD.glob("*.py")}
    packages |= {path.parent.name for path in PAYLOAD.glob("*/__init__.py")}
    helpers = {path.stem for path in (PAYLOAD / "tests").glob("*.py")}
    problems = []
    for file in project.rglob("*.py"):
        for module in imports_of(file):
            path = project / module.replace(".", "/")
            if file.parent.name == "tests" and module in helpers:
                path = file.parent / module
            elif module.split(".")[0] not in packages:
                continue
            if not path.is_dir() and not path.with_suffix(".py").is_file():
                problems.append(f"{file.relative_to(project)} imports {module}")
    return problems


def names_of(missing: set[str]) -> set[str]:
    """Returns what a text can call these files: paths, folders, and dotted names of modules."""
    names = set(missing)
    names |= {file.removesuffix(".py").replace("/", ".") for file in missing if "/" in file}
    for folder in {file.rpartition("/")[0] for file in missing} - {""}:
        files = {path.relative_to(PAYLOAD).as_posix() for path in (PAYLOAD / folder).glob("*.*")}
        if files <= missing:
            names.add(f"{folder}/")
    return names


def mentions(project: Path, names: set[str]) -> list[str]:
    """Returns a line for each file, except tests, that contains one of the names."""
    pattern = re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, sorted(names)))})(?!\w)")
    found = []
    for name, content in files_of(project).items():
        if not name.startswith("tests/"):
            text = content.decode("utf-8")
            found += [f"{name} mentions {match[1]}" for match in pattern.finditer(text)]
    return found


@pytest.mark.parametrize("preset", ["minimal", "standard", "everything"])
def test_no_file_imports_or_mentions_what_a_preset_leaves_out(tmp_path: Path, preset: str) -> None:
    """Tests that need a file which users may delete are skipped without it, and may name it.

    test_matrix.py does the same with all pairs of answers.
    """
    project = generate(tmp_path / "here", preset=preset)
    assert default_answers(preset).items() <= answers_of(project).items()
    missing = foreign(preset=preset)
    assert not missing & files_of(project).keys()
    assert problems_of_imports(project) == []
    assert mentions(project, names_of(missing)) == []


def test_imports_and_mentions_of_missing_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_x.py").write_text("import run_folders\nfrom checks.rate import x\n")
    (tmp_path / "README.md").write_text("See `check.py`, checks/ and sanity_check.py.\n")
    assert sorted(problems_of_imports(tmp_path)) == [
        "tests/test_x.py imports checks.rate",
        "tests/test_x.py imports run_folders",
    ]
    names = names_of(foreign(preset="minimal"))
    found = ["README.md mentions check.py", "README.md mentions checks/"]
    assert mentions(tmp_path, names) == found


def test_a_minimal_project_has_only_the_tools_that_train_and_use_a_model(tmp_path: Path) -> None:
    project = generate(tmp_path / "here", preset="minimal")
    commands = {"train.py", "evaluate.py", "predict.py", "export.py", "preview.py"}
    scripts = {path.name for path in project.glob("*.py") if "run_command(" in path.read_text()}
    assert scripts == commands
    for name in ("checks", "experiments", "notebooks", "Dockerfile", "slurm.sh"):
        assert not (project / name).exists()
    for name in (".github", ".gitlab-ci.yml", "logger/mlflow_tracker.py"):
        assert not (project / name).exists()
    extras = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert extras["optional-dependencies"].keys() == {"metrics", "onnx", "dev"}
    for content in files_of(project).values():
        assert b"optuna" not in content.lower()


def test_presets_answer_the_same_questions() -> None:
    (names,) = {tuple(answers) for answers in PRESETS.values()}
    assert {*names} <= {*QUESTIONS}
    assert PRESETS["custom"] == PRESETS["standard"]


@pytest.mark.parametrize("render_with", [render, from_settings])
def test_an_explicit_answer_wins_over_the_preset(tmp_path: Path, render_with: Renderer) -> None:
    explicit = {"ci": "github", "tools": "all", "author_name": "Ada"}
    done = render_with(tmp_path, preset="minimal", **explicit)
    assert done.returncode == 0, done.stdout
    project = tmp_path / "my-project"
    expected = {**default_answers("minimal"), **explicit, "project_slug": "my-project"}
    assert answers_of(project) == expected
    assert (project / ".github/workflows/checks.yml").exists()
    assert (project / "sweep.py").exists()
    assert not (project / "tests/test_settings.py").exists()


def test_three_questions_are_asked(tmp_path: Path) -> None:
    typed = "Net One\n6\n2\n"  # another question would end with an error, as the input has ended
    done = run("cookiecutter", TEMPLATE, "ci=gitlab", cwd=tmp_path, typed=typed)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"\[(\d)/(\d+)\]", done.stdout) == [("1", "3"), ("2", "3"), ("3", "3")]
    answers = answers_of(tmp_path / "net-one")
    typed_answers = {"project_name": "Net One", "example": "bare"}
    explicit = {"ci": "gitlab", "project_slug": "net-one"}
    assert answers == {**default_answers("minimal"), **typed_answers, **explicit}


def test_custom_asks_all_questions(tmp_path: Path) -> None:
    done = render_typed(tmp_path, example="6", author_name="Ada", ci="3", tools="2")
    assert done.returncode == 0, done.stdout
    count = len(QUESTIONS)
    asked = re.findall(rf"\[(\d+)/{count}\]", done.stdout)
    assert asked == [str(number) for number in range(4, count + 1)]
    explicit = {"example": "bare", "author_name": "Ada", "ci": "none", "tools": "none"}
    expected = {**default_answers("custom"), **explicit, "project_slug": "my-project"}
    assert answers_of(tmp_path / "my-project") == expected


def test_cookiecutter_asks_the_questions_of_other_templates_itself(tmp_path: Path) -> None:
    original = prompt.read_user_variable
    generate(tmp_path / "here", preset="minimal")
    assert prompt.read_user_variable is original


def test_an_update_keeps_the_answers_of_a_preset(tmp_path: Path) -> None:
    template = clone(tmp_path)
    answers = ("--no-input", "--extra-context", json.dumps({"preset": "minimal", "ci": "gitlab"}))
    cruft(tmp_path, "create", template, "--default-config", *answers)
    project = tmp_path / "my-project"
    commit(project)
    before = files_of(project)
    assert "check.py" not in before
    # The next version has another preset by default, and it changes a file of each project.
    change(template / "cookiecutter.json", '"preset": "standard"', '"preset": "everything"')
    change(template / PAYLOAD.name / "train.py", "import", "# newer\nimport")
    commit(template)
    cruft(project, "update", "--skip-apply-ask")
    after = files_of(project)
    assert after.keys() == before.keys()
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"train.py", ".cruft.json"}
    assert answers_of(project)["preset"] == "minimal"


def test_each_choice_has_a_prompt_of_one_line() -> None:
    assert PROMPTS["__prompts__"].keys() == {*QUESTIONS}
    for texts in PROMPTS["__prompts__"].values():
        for text in texts.values() if isinstance(texts, dict) else [texts]:
            assert 10 < len(text) <= 80 - len("  [12/14] "), text
