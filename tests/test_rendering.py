"""Rendering: the files of a project, their contents, and the ways to render them."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
from conftest import PAYLOAD, PROMPTS, TEMPLATE, clone, files_of, foreign, render, render_typed, run
from ruamel.yaml import YAML
from test_answers import TEXTS
from test_hostile_answers import assert_answers_are_unchanged

LICENSES = {
    "MIT": "MIT License",
    "Apache-2.0": "Apache License",
    "BSD-3-Clause": "BSD 3-Clause License",
    "Proprietary": "All rights reserved",
}
PYTHONS = ["3.11", "3.12", "3.13"]


def read_toml(project: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))


def parse_all(project: Path) -> None:
    """Parses every file of a known format and asserts that no Jinja is left in any file."""
    for name, content in files_of(project).items():
        text = content.decode("utf-8")
        if name.endswith(".py"):
            ast.parse(text)
        elif name.endswith(".toml"):
            tomllib.loads(text)
        elif name.endswith(".json"):
            json.loads(text)
        elif name.endswith((".yaml", ".yml")):
            YAML(typ="safe", pure=True).load(text)
        assert "cookiecutter." not in text, name
        assert not re.search(r"\{%|(?<!\$)\{\{ ", text), name


def test_the_files_are_those_of_the_payload_and_one_licence(default_project: Path) -> None:
    tracked = run("git", "ls-files", "-co", "--exclude-standard", cwd=PAYLOAD).stdout.split()
    expected = {name for name in tracked if not name.startswith("licenses/")} | {"LICENSE"}
    expected.remove("INCOMPLETE.md")  # only without hooks
    assert set(files_of(default_project)) == expected - foreign()


def test_all_files_parse_and_contain_no_jinja(default_project: Path) -> None:
    parse_all(default_project)


def test_python_files_equal_those_of_the_payload(default_project: Path) -> None:
    for path in default_project.rglob("*.py"):
        assert path.read_bytes() == (PAYLOAD / path.relative_to(default_project)).read_bytes()


@pytest.mark.parametrize("name", LICENSES)
def test_each_licence_is_complete_and_names_the_copyright_holder(tmp_path: Path, name: str) -> None:
    assert render(tmp_path, license=name, author_name="Ada L.").returncode == 0
    project = tmp_path / "my-project"
    text = (project / "LICENSE").read_text(encoding="utf-8")
    assert LICENSES[name] in text
    assert re.search(r"Copyright (\(c\) )?20\d\d,? Ada L\.", text)
    assert not re.search(r"\[yyyy\]|\[name|<year>", text)
    identifier = name if name != "Proprietary" else "LicenseRef-Proprietary"
    assert read_toml(project)["project"]["license"] == identifier
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert f"{name if name != 'Proprietary' else 'All rights reserved'}, see `LICENSE`" in readme
    parse_all(project)


@pytest.mark.parametrize("version", PYTHONS)
def test_the_selected_python_is_required_and_tested(tmp_path: Path, version: str) -> None:
    assert render(tmp_path, python_version=version).returncode == 0
    project = tmp_path / "my-project"
    assert read_toml(project)["project"]["requires-python"] == f">={version}"
    assert (project / ".python-version").read_text() == f"{PYTHONS[-1]}\n"  # for development
    workflow = (project / ".github/workflows/checks.yml").read_text(encoding="utf-8")
    matrix = YAML(typ="safe", pure=True).load(workflow)["jobs"]["checks"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS[PYTHONS.index(version) :]
    for command in (["check"], ["format", "--check"]):  # the rules depend on the oldest Python
        done = run("ruff", *command, "--no-cache", cwd=project)
        assert done.returncode == 0, done.stdout
    parse_all(project)


def test_the_slug_is_the_name_of_the_folder_and_of_the_package(tmp_path: Path) -> None:
    assert render(tmp_path, project_slug="net_2").returncode == 0
    project = read_toml(tmp_path / "net_2")["project"]
    assert project["name"] == "net_2"
    assert "net_2[dev]" in str(read_toml(tmp_path / "net_2")["dependency-groups"])


@pytest.mark.parametrize("text", TEXTS)
def test_typed_text_is_written_unchanged(tmp_path: Path, text: str) -> None:
    done = render_typed(
        tmp_path, project_name=text, project_slug="odd", description=text, author_name=text
    )
    assert done.returncode == 0, done.stdout
    assert_answers_are_unchanged(
        tmp_path / "odd", project_name=text, description=text, author_name=text
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("project_slug", ""),
        ("project_slug", "../outside"),
        ("project_slug", "a/b"),
        ("project_slug", "torch"),
        ("author_email", "nobody"),
        ("project_name", "two\nlines"),
    ],
)
def test_an_invalid_answer_gives_a_one_line_error_and_no_files(
    tmp_path: Path, name: str, text: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = render(work, **{name: text})
    assert done.returncode != 0
    (line,) = done.stdout.strip().splitlines()
    assert line.startswith(f"error: {name} {text!r}: ")
    assert [path for path in work.iterdir() if path.name[0] != "."] == []
    assert list(tmp_path.iterdir()) == [work]


def test_replaying_over_a_project_gives_the_same_files(tmp_path: Path) -> None:
    answers = {"project_name": 'A "B" \\ C', "preset": "minimal", "ci": "gitlab"}
    assert render(tmp_path, **answers).returncode == 0
    first = files_of(tmp_path / "a-b-c")
    done = run("cookiecutter", TEMPLATE, "--replay", "--overwrite-if-exists", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert files_of(tmp_path / "a-b-c") == first


def test_overwriting_keeps_files_that_the_user_added(tmp_path: Path) -> None:
    assert render(tmp_path).returncode == 0
    of_another_example = "model/text.py"
    files = ("runs/first/metrics.csv", "feature_cache/0.npy", "licenses/other.txt")
    for mine in [tmp_path / "my-project" / file for file in (*files, of_another_example)]:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        assert render(tmp_path, "--overwrite-if-exists").returncode == 0
        assert mine.read_text() == "mine"


@pytest.mark.parametrize("file", ["skipped-file", "INCOMPLETE.md", "licenses/MIT"])
def test_a_temporary_file_does_not_overwrite_a_file_of_the_user(tmp_path: Path, file: str) -> None:
    assert render(tmp_path).returncode == 0
    mine = tmp_path / "my-project" / file
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    done = render(tmp_path, "--overwrite-if-exists", author_name="Somebody else")
    assert done.returncode != 0
    assert f"error: {file} exists" in done.stdout
    assert "move it" in done.stdout
    assert "Traceback" not in done.stdout
    assert mine.read_text() == "mine"
    assert "Somebody else" not in (tmp_path / "my-project/LICENSE").read_text()


def test_caches_in_the_template_are_not_copied(tmp_path: Path) -> None:
    template = clone(tmp_path)
    for folder in ("__pycache__", "base/__pycache__", ".mypy_cache"):
        cache = template / PAYLOAD.name / folder / "x.pyc"
        cache.parent.mkdir(parents=True)
        cache.write_bytes(b"\x8a\xff{{ }}")
    done = render(tmp_path, template=template)
    assert done.returncode == 0, done.stdout
    assert not [name for name in files_of(tmp_path / "my-project") if name.endswith(".pyc")]


def test_rendering_from_a_git_url_gives_the_same_files(
    tmp_path: Path, default_project: Path
) -> None:
    clone(tmp_path).rename(tmp_path / "torch-template.git")
    (tmp_path / ".cookiecutters").mkdir()
    done = render(tmp_path, template=f"file://{tmp_path}/torch-template.git")
    assert done.returncode == 0, done.stdout
    assert files_of(tmp_path / "my-project") == files_of(default_project)


def test_rendering_prints_the_next_steps_and_creates_a_git_repository(tmp_path: Path) -> None:
    done = render(tmp_path)
    for command in ("cd my-project", "uv run train.py", 'pip install -e ".[dev]"'):
        assert f"    {command}\n" in done.stdout
    assert (tmp_path / "my-project" / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert "Write your name into LICENSE" in done.stdout
    named = render(tmp_path, project_slug="named", author_name='Ada "L"')
    assert "Write your name" not in named.stdout


def test_rendering_works_without_git(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    done = run("which", "python", "cookiecutter", cwd=tmp_path)
    python, cookiecutter = map(Path, done.stdout.split())
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    done = run(python, cookiecutter, TEMPLATE, "--no-input", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stdout
    assert "git is not installed" in done.stdout
    assert not (tmp_path / "my-project" / ".git").exists()


def test_without_hooks_nothing_is_written(tmp_path: Path) -> None:
    done = render(tmp_path, "--accept-hooks", "no", example="bare")
    assert done.returncode == 1
    assert done.stdout.startswith("error: --accept-hooks no:")
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "my-project").exists()


def test_a_project_whose_hooks_were_refused_later_says_so(tmp_path: Path) -> None:
    done = run(
        "cookiecutter", TEMPLATE, "--no-input", "--accept-hooks", "ask", cwd=tmp_path, typed="n\n"
    )
    assert done.returncode == 0, done.stdout
    assert "hooks did not run" in (tmp_path / "my-project/INCOMPLETE.md").read_text()
    assert render(tmp_path, project_slug="complete").returncode == 0
    assert not (tmp_path / "complete/INCOMPLETE.md").exists()


def test_an_old_cookiecutter_stops_at_a_module_that_names_the_oldest_version() -> None:
    """It does not find modules of the template, and its message names the first one."""
    extension = PROMPTS["_extensions"][0]
    assert extension == "cookiecutter_2_1_or_newer_is_required.Marker"
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    assert "**cookiecutter** 2.1 or newer" in readme
