"""Projects of an older template version, changed by a user, are updated by cruft."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from conftest import (
    CHOICES,
    PAYLOAD,
    PROMPTS,
    TEMPLATE,
    clone,
    commit,
    default_answers,
    files_of,
    generate,
    git,
    run,
)
from project_pages import bash_blocks

ANSWERS = {"project_name": "{{ 7 * 7 }} 'nets'", "project_slug": "nets", "author_name": 'A "B"'}
# What the user changes (old and new text by file), adds and deletes.
EDITED = {
    "README.md": ("## Start\n", "## Start\n\nFirst, look at our data.\n"),
    "base/base_trainer.py": ("import torch\n", "import torch  # mine\n"),
    "pyproject.toml": ("dependencies = [\n", 'dependencies = [\n    "pandas>=2",\n'),
    "LICENSE": (' A "B"', ' A "B" and others'),
    "config/default.txt": ("fashion_mnist.yaml", "mine.yaml"),
}
ADDED = {"model/mine.py": "# mine\n", "config/mine.yaml": "model:\n  name: mine.Mine\n"}
NO_GIT = shutil.ignore_patterns(".git")
DELETED = ["config/tutorial.yaml", "data_loader/fashion_mnist.py", "slurm.sh"]


def change(file: Path, old: str, new: str) -> None:
    """Replaces the first occurrence of a text in a file."""
    text = file.read_bytes().decode("utf-8")
    assert old in text, (file, old)
    file.write_bytes(text.replace(old, new, 1).encode("utf-8"))


def remove_presets(prompts: Path) -> None:
    """Removes the presets, and gives each question that has choices a list of them."""
    questions = json.loads(prompts.read_text(encoding="utf-8"))
    for name in ("preset", "tools", "tests", "__start", "__end", "_presets"):
        del questions[name]
    for name in ("tools", "tests"):
        del questions["_files"][name]
    questions["_extensions"].remove("hooks.prompts.Prompts")
    for name in questions.keys() & CHOICES.keys():
        questions[name] = CHOICES[name]
    prompts.write_text(json.dumps(questions, indent=2), encoding="utf-8")


def make_older(template: Path) -> None:
    """Turns a copy of the template into an older version."""
    payload, prompts = template / PAYLOAD.name, template / "cookiecutter.json"
    change(prompts, f'"_version": "{PROMPTS["_version"]}"', '"_version": "0.0.1"')
    # A filter has another name, so that each version needs its own hooks; a question is missing.
    change(template / "hooks/answers.py", '"quoted": quote', '"as_toml": quote')
    change(prompts, '  "python_version": "3.11",\n', "")
    remove_presets(prompts)
    for file in filter(Path.is_file, payload.rglob("*")):
        older = file.read_bytes().replace(b"| quoted", b"| as_toml")
        for name, answer in {"python_version": "3.11", "tools": "all", "tests": "all"}.items():
            older = older.replace(f"cookiecutter.{name}".encode(), f'"{answer}"'.encode())
        file.write_bytes(older)
    # The text differs in files that the user edits, keeps, deletes, or never had.
    change(payload / "README.md", "## Checks\n", "## Tests\n")
    files = ["base/base_trainer.py", "train.py", "model/text.py", *DELETED]
    for path in [payload / file for file in files]:
        path.write_text(path.read_text(encoding="utf-8") + "# older\n", encoding="utf-8")
    # One file does not exist yet, and another one is removed later.
    (payload / "evaluate.py").unlink()
    (payload / "utils/older.py").write_text("# older\n", encoding="utf-8")


def make_present(template: Path) -> None:
    """Replaces the contents of a template repository by the working tree, and commits."""
    git(template, "rm -rq .")
    shutil.copytree(clone(template / "../present"), template, dirs_exist_ok=True, ignore=NO_GIT)
    commit(template)


def last_release() -> str:
    """Returns the tag of the newest release, or an empty text."""
    return git(TEMPLATE, "tag --list v* --sort=-version:refname").partition("\n")[0]


@pytest.fixture(params=["made older", "last release"])
def template(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A repository with an older version of the template, tagged with its version number."""
    if request.param == "made older":
        folder = clone(tmp_path)
        make_older(folder)
        commit(folder)
        git(folder, "tag v0.0.1")
        return folder
    tag = last_release()
    if not tag:
        pytest.skip("the template's repository has no tag of a release")
    git(tmp_path, f"clone -q file://{TEMPLATE} template")
    git(tmp_path / "template", f"checkout -q {tag}")
    return tmp_path / "template"


def cruft(folder: Path, *command: str | Path) -> str:
    """Runs cruft without input; returns its output."""
    done = run("cruft", *command, cwd=folder, typed="")
    assert done.returncode == 0, done.stdout
    return done.stdout


def create(template: Path) -> Path:
    """Creates a project with cruft and commits all files; returns its folder."""
    answers = ("--no-input", "--extra-context", json.dumps(ANSWERS))
    cruft(template.parent, "create", template, "--default-config", *answers)
    commit(template.parent / "nets")
    return template.parent / "nets"


def work(project: Path) -> None:
    """Makes and commits the user's changes."""
    for name, (old, new) in EDITED.items():
        change(project / name, old, new)
    for name, text in ADDED.items():
        (project / name).write_text(text, encoding="utf-8")
    for name in DELETED:
        (project / name).unlink()
    commit(project)


def assert_is_present(project: Path) -> None:
    """Asserts that a project equals a new one, except for the user's changes."""
    files, present = files_of(project), files_of(generate(project.parent / "today", **ANSWERS))
    assert files.keys() - {".cruft.json"} == present.keys() - {*DELETED} | ADDED.keys()
    for name in files.keys() & present.keys():
        text = files[name].decode("utf-8")
        if name in EDITED:
            old, new = EDITED[name]
            assert new in text
            text = text.replace(new, old, 1)
        assert text == present[name].decode("utf-8"), name
    for name, text in ADDED.items():
        assert files[name].decode("utf-8") == text
    about = tomllib.loads(files["pyproject.toml"].decode("utf-8"))["tool"]["torch-template"]
    assert about["version"] == PROMPTS["_version"]
    assert about["answers"] == {**default_answers(), **ANSWERS}


def test_an_update_applies_new_changes_and_keeps_the_users_work(template: Path) -> None:
    project = create(template)
    work(project)
    make_present(template)
    assert run("cruft", "check", cwd=project).returncode == 1
    cruft(project, "update", "--skip-apply-ask")
    assert_is_present(project)
    states = {line[:2] for line in git(project, "status --porcelain").splitlines()}
    assert states <= {"M ", "A ", "D ", " M"}  # no conflicts and no untracked files
    cruft(project, "check")
    commit(project)
    cruft(project, "update", "--skip-apply-ask")
    assert git(project, "status --porcelain") == ""
    patch = run("bash", "-c", "cruft diff 2> /dev/null", cwd=project).stdout
    assert patch.startswith("diff --git ")  # without the output of the hook


def test_the_documented_commands_update_a_project_created_by_cookiecutter(template: Path) -> None:
    answers = [f"{name}={text}" for name, text in ANSWERS.items()]
    done = run("cookiecutter", template, "--no-input", *answers, cwd=template.parent)
    assert done.returncode == 0, done.stdout
    project = template.parent / "nets"
    commit(project)
    work(project)
    make_present(template)
    git(project, "config user.name x")
    git(project, "config user.email x@y")
    for commands in bash_blocks(project / "docs/updates.md"):
        local = commands.replace("gh:org/torch-template", str(template)).replace("uvx ", "")
        done = run("bash", "-euo", "pipefail", "-c", local, cwd=project, typed="")
        assert done.returncode == 0, done.stdout
    assert_is_present(project)
    cruft(project, "check")


@pytest.mark.parametrize("committed_before", [True, False])
def test_conflicting_lines_are_reported_and_nothing_is_lost(
    tmp_path: Path, committed_before: bool
) -> None:
    template = clone(tmp_path)
    make_older(template)
    commit(template)
    project = create(template)
    change(project / "README.md", "## Tests\n", "## My tests\n")
    if not committed_before:  # git does not have the original file
        shutil.rmtree(project / ".git")
        git(project, "init -q")
    commit(project)
    make_present(template)
    output = cruft(project, "update", "--skip-apply-ask")
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert "## My tests\n" in readme
    if committed_before:
        assert "README.md' with conflicts" in output
        assert "<<<<<<< ours\n## My tests\n=======\n## Checks\n>>>>>>> theirs\n" in readme
    else:
        assert "patch failed: README.md" in output
        rejected = (project / "README.md.rej").read_text(encoding="utf-8")
        assert "-## Tests\n+## Checks\n" in rejected
    assert "# older" not in (project / "train.py").read_text(encoding="utf-8")
    assert (project / "evaluate.py").exists()
