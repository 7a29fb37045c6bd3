"""The same answers give the same files everywhere, with paths that all systems allow."""

import json
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import CHOICES, TEMPLATE, clone, files_of, generate, git, modes_of, run

ANSWERS = {
    "project_name": "Ünïcode İı 🚀",
    "author_name": "İlkay Şen",
    "description": "ß ﬁ e\u0301",
}
RESERVED = {"con", "prn", "aux", "nul"} | {f"{n}{k}" for n in ("com", "lpt") for k in range(10)}


def render_in(folder: Path, *shell: str, **environment: str) -> Path:
    """Renders with ANSWERS through the command line, after some shell commands."""
    folder.mkdir()
    settings = json.dumps({"default_context": ANSWERS}, ensure_ascii=False)
    (folder / ".cookiecutterrc").write_text(settings, encoding="utf-8")
    commands = "; ".join([*shell, f"exec cookiecutter '{TEMPLATE}' --no-input"])
    done = run("sh", "-c", commands, cwd=folder, **environment)
    assert done.returncode == 0, done.stdout
    return folder / "unicode-ii"


def without_dates(project: Path) -> dict[str, bytes]:
    return {name: re.sub(rb"\b20\d\d\b", b"", text) for name, text in files_of(project).items()}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_in(tmp_path_factory.mktemp("usual") / "here")


@pytest.mark.parametrize(
    "environment",
    [
        {
            "TZ": "Pacific/Kiritimati",
            "PYTHONHASHSEED": "1",
        },  # the date differs from UTC's by a day ...
        {"TZ": "Etc/GMT+12", "PYTHONHASHSEED": "2"},  # ... in both directions
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "3"},
        {"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr", "PYTHONUTF8": "0"},
        {"PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"},
    ],
    ids=lambda environment: "-".join(environment.values()),
)
def test_time_zone_and_locale_do_not_change_the_files(
    tmp_path: Path, usual: Path, environment: dict[str, str]
) -> None:
    setlocale = "import locale; locale.setlocale(locale.LC_ALL, '')"
    if run("python", "-c", setlocale, cwd=tmp_path, **environment).returncode != 0:
        language, _, charmap = environment["LC_ALL"].partition(".")
        make = f"localedef -i {language} -f {charmap} ./{environment['LC_ALL']}"
        run("bash", "-c", make, cwd=tmp_path)
        environment = {**environment, "LOCPATH": str(tmp_path)}
        if run("python", "-c", setlocale, cwd=tmp_path, **environment).returncode != 0:
            pytest.skip("this machine has neither the locale nor the sources to compile it")
    project = render_in(tmp_path / "there", **environment)
    assert without_dates(project) == without_dates(usual)
    assert modes_of(project) == modes_of(usual)


@pytest.mark.parametrize("mask", ["000", "077"])
def test_the_umask_does_not_change_the_files(tmp_path: Path, usual: Path, mask: str) -> None:
    project = render_in(tmp_path / "there", f"umask {mask}")
    assert without_dates(project) == without_dates(usual)
    assert modes_of(project) == modes_of(usual)


def choices() -> list[dict[str, str]]:
    """Returns answers that contain each choice; with ALL, in many combinations."""
    longest = max(map(len, CHOICES.values()))
    return [
        {name: o[(i + shift * k) % len(o)] for k, (name, o) in enumerate(CHOICES.items())}
        for shift in range(longest if "ALL" in os.environ else 1)
        for i in range(longest)
    ]


@pytest.mark.parametrize("answers", choices(), ids=lambda answers: "-".join(answers.values()))
def test_rendering_again_changes_nothing_and_the_files_are_well_formed(
    tmp_path: Path, answers: dict[str, str]
) -> None:
    project = generate(tmp_path / "here", **answers, **ANSWERS)
    files = files_of(project)
    modes = modes_of(project)
    assert generate(tmp_path / "here", **answers, **ANSWERS) == project
    assert files_of(project) == files
    assert modes_of(project) == modes
    assert problems_of_paths(files) == []
    for name, content in files.items():
        text = content.decode("utf-8")
        assert "\r" not in text, name
        assert not text.startswith("\ufeff"), name
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), name
        assert bool(modes[name] & 0o111) == text.startswith("#!"), name
        assert modes[name] & 0o600 == 0o600, name


def problems_of_paths(paths: Iterable[str]) -> list[str]:
    """Returns the paths that Windows or macOS cannot store, or not in the same folder."""
    problems = []
    seen: set[str] = set()
    for path in paths:
        parts = path.split("/")
        same = unicodedata.normalize("NFD", path.casefold())
        bad = any(part[-1] in " ." or part.split(".")[0].lower() in RESERVED for part in parts)
        if bad or same in seen or len(path) > 120 or re.search(r'[\0-\x1f<>:"\\|?*]', path):
            problems.append(path)
        seen.add(same)
    return problems


def test_paths_that_some_systems_do_not_allow_are_found() -> None:
    bad = ["a/con", "Nul.txt", "x/lpt1.py", "a.", "a /b", "a:b", "a?", "a\\b", "x\ny", "é" * 121]
    assert problems_of_paths(bad) == bad
    assert problems_of_paths(["a", "A", "e\u0301", "é", "ok/console.py"]) == ["A", "é"]


def test_the_templates_paths_are_allowed_and_its_scripts_executable() -> None:
    tracked = git(TEMPLATE, "ls-files -s -z").split("\0")[:-1]
    modes = {line.split("\t")[1]: line.split()[0] for line in tracked}
    assert problems_of_paths(modes) == []
    for name, mode in modes.items():
        if (TEMPLATE / name).is_file():
            script = (TEMPLATE / name).read_bytes().startswith(b"#!")
            assert mode == ("100755" if script else "100644"), name


def test_a_checkout_with_windows_line_endings_renders_the_same_files(
    tmp_path: Path, default_project: Path
) -> None:
    template = clone(tmp_path)
    git(tmp_path, f"clone -q -c core.autocrlf=true file://{template} windows")
    done = run("cookiecutter", tmp_path / "windows", "--no-input", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert files_of(tmp_path / "my-project") == files_of(default_project)
    # A checkout of the project with Windows line endings has the same files, too.
    project = tmp_path / "my-project"
    git(project, "add -A")
    git(project, "commit -qm x")
    git(tmp_path, f"clone -q -c core.autocrlf=true file://{project} again")
    assert files_of(tmp_path / "again") == files_of(default_project)
