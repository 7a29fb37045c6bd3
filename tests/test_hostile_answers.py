"""Answers of any text: each is written unchanged and is never executed, or it is rejected.

Answers are typed, passed on the command line, or read from a settings or replay file.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    CHOICES,
    PAYLOAD,
    PROMPTS,
    TEMPLATE,
    clone,
    default_answers,
    files_of,
    generate,
    render,
    run,
)
from cookiecutter.exceptions import FailedHookException
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_answers import HOOK

Renderer = Callable[..., subprocess.CompletedProcess[str]]
CANARY = (
    Path(tempfile.gettempdir()) / f"torch-template-{os.getpid()}"
)  # exists if an answer was executed
JINJA = f"{{{{ cycler.__init__.__globals__.os.system('touch {CANARY}') }}}}"
FRAGMENTS = [
    JINJA,
    f"{{% set x = cycler.__init__.__globals__.os.system('touch {CANARY}') %}}",
    "{{ 7 * 7 }}", "{{ cookiecutter.project_slug }}", "{{", "}}", "{%", "%}", "{#", "#}",
    "{% raw %}", "{% endraw %}", "{{ undefined }}",
    f'"; import os; os.system("touch {CANARY}") #', f"'''; open('{CANARY}', 'w')  # '''", '"""',
    f"$(touch {CANARY})", f"`touch {CANARY}`", f"; touch {CANARY} &", f"| touch {CANARY}", "$HOME",
    f'!!python/object/apply:os.system ["touch {CANARY}"]', "&a [*a]", "- : #", "null", "~", "1e3",
    'x"\n[tool.evil]\ny = "', "'", '"', "\\", "\\u0041", "\\N{BULLET}", "[x]", "]]", ", ", "=",
    "# ", "* ", "_a_", "`", "<!--", "-->", "<script>", "![a](b)", "[a]: b", "&amp;", "|", "~~",
    "1) ", "http://a.b", "a@b.c", "\ufeff", "\u200b", "\u202e", "\xa0", " ", "é", "e\u0301", "ß",
    "İ", "한국어", "مشروع", "👩🏽‍🔬",
]  # fmt: skip
CLEAN = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
SOME = st.text(CLEAN, max_size=30) | st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)
LONG = st.builds(lambda text: (text * 10_000)[:10_000], st.text(CLEAN, min_size=1, max_size=9))
GOOD = (SOME | LONG).map(str.strip).map(lambda text: text or "x")
ODD = ["", " a", "a\xa0", "a\nb", "\r\n", "\x1b[31m", *"\0\t\x7f\x85\u2028\ud800"]
ANY = GOOD | st.text(st.characters(exclude_categories=())) | st.sampled_from(ODD)
EMAILS = ["you@example.com", "a.b+c@пример.рф", "!#$%&'*+/=?^_`{|}~-@x--y.co", f"{'a' * 9990}@b.co"]
FORBIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
TEXTS = ("project_name", "description", "author_name", "author_email")
AUTHORS = ['Ada, "B" <c@d> \\', "{{ 7 }} 👩🏽‍🔬, مشروع\u202e", "[tool]", "é, <@>" * 1600 + "x"]
INSTALL = "import sys, setuptools.build_meta as m; m.prepare_metadata_for_build_wheel(sys.argv[1])"


def assert_answers_are_unchanged(project: Path, **answers: str) -> None:
    """Asserts that the project's files contain the answers, or the default ones, unchanged."""
    answers = {name: answers.get(name, PROMPTS[name]) for name in TEXTS}
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    author, email = answers["author_name"], answers["author_email"]
    assert about["project"]["description"] == answers["description"]
    assert about["project"]["authors"] == [{"name": author, "email": email}]
    assert answers.items() <= about["tool"]["torch-template"]["answers"].items()
    assert f" {author}" in (project / "LICENSE").read_text(encoding="utf-8")
    readme = MarkdownIt().parse((project / "README.md").read_text(encoding="utf-8"))
    inlines = [token for token in readme if token.type == "inline"]
    shown = ["".join(child.content for child in token.children or ()) for token in inlines]
    description = [answers["description"]] if answers["description"] else []
    assert shown[: 1 + len(description)] == [answers["project_name"], *description]
    assert shown[-1].endswith(f"{author} <{email}>")


@settings(
    max_examples=300 if os.environ.get("ALL") else 60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
@given(texts=st.tuples(GOOD, GOOD, GOOD) | st.tuples(ANY, ANY, ANY), email=st.sampled_from(EMAILS))
def test_any_text_is_written_unchanged_or_rejected_and_never_executed(
    default_project: Path, texts: tuple[str, str, str], email: str
) -> None:
    answers = dict(zip(TEXTS, [*texts, email], strict=True))
    bad = [text for text in answers.values() if FORBIDDEN.search(text) or text != text.strip()]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "here"
        try:
            project = generate(here, **answers)
        except FailedHookException as error:
            assert bad or not texts[0] or not texts[2], error
            assert re.fullmatch(r"error: \w+ .{,120}: [^\n]+", str(error))
            assert not here.exists()
        else:
            assert not bad
            assert_answers_are_unchanged(project, **answers)
            assert list(here.iterdir()) == [project]
            files, usual = files_of(project), files_of(default_project)
            assert files.keys() == usual.keys()
            changed = {path for path in files if files[path] != usual[path]}
            assert changed <= {"pyproject.toml", "README.md", "LICENSE"}
    assert not CANARY.exists()


def replay(folder: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    """Renders again with the previous answers, some of which are changed in the replay file."""
    (path,) = (folder / ".cookiecutter_replay").iterdir()
    answers = json.loads(path.read_text(encoding="utf-8"))
    answers["cookiecutter"].update(changes)
    path.write_text(json.dumps(answers), encoding="utf-8")
    return run("cookiecutter", TEMPLATE, "--replay", "--overwrite-if-exists", cwd=folder)


def from_settings(folder: Path, **answers: object) -> subprocess.CompletedProcess[str]:
    """Renders with answers from a settings file of cookiecutter."""
    settings = json.dumps({"default_context": answers}, ensure_ascii=False)
    (folder / ".cookiecutterrc").write_text(settings, encoding="utf-8")
    return render(folder)


def from_replay(folder: Path, **answers: object) -> subprocess.CompletedProcess[str]:
    """Renders with answers from a replay file."""
    assert render(folder).returncode == 0
    shutil.rmtree(folder / "my-project")
    return replay(folder, **answers)


@pytest.mark.parametrize("render_with", [render, from_settings, from_replay])
def test_jinja_in_an_answer_is_not_evaluated(tmp_path: Path, render_with: Renderer) -> None:
    answers = {"project_name": JINJA, "description": JINJA + "{# a #}"}
    answers["author_name"] = "{{ cookiecutter.project_slug }}"
    done = render_with(tmp_path, project_slug="odd", **answers)
    assert done.returncode == 0, done.stdout
    assert not CANARY.exists()
    assert_answers_are_unchanged(tmp_path / "odd", **answers)


def test_jinja_in_the_output_folder_is_not_evaluated(tmp_path: Path) -> None:
    folder = tmp_path / "{{ 7 * 7 }}"
    folder.mkdir()
    done = render(folder)
    assert done.returncode == 0, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert (folder / "my-project/base/__init__.py").exists()


@pytest.mark.parametrize("render_with", [from_settings, from_replay])
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("project_slug", "../outside"),
        ("description", "two\nlines"),
        ("author_name", 3),
        ("author_name", None),
        ("author_name", {"first": "Ada"}),
    ],
)
def test_an_invalid_answer_from_a_file_gives_a_one_line_error_and_no_files(
    tmp_path: Path, render_with: Renderer, name: str, answer: object
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = render_with(work, **{name: answer})
    if name == "author_name" and answer == 3 and render_with == from_settings:
        assert done.returncode == 0, done.stdout  # cookiecutter converts it to text
        return
    assert done.returncode != 0
    (line,) = done.stdout.strip().splitlines()
    assert line.startswith(f"error: {name} {answer!r}: ")
    assert [path for path in work.iterdir() if path.name[0] != "."] == []
    assert list(tmp_path.iterdir()) == [work]


def test_a_replay_file_of_another_version_is_rejected(tmp_path: Path) -> None:
    assert render(tmp_path).returncode == 0
    before = files_of(tmp_path / "my-project")
    for name in ("example", "license", "python_version", "ci", "_files", "_version"):
        done = replay(tmp_path, **{name: f"MIT\"\nopen('{CANARY}', 'w') #"})
        assert done.returncode != 0
        (line,) = done.stdout.strip().splitlines()
        assert line.startswith(f"error: {name} ")
        default = {**PROMPTS, **default_answers()}[name]
        assert replay(tmp_path, **{name: default}).returncode == 0
    assert files_of(tmp_path / "my-project") == before
    assert not CANARY.exists()


def test_an_incomplete_replay_file_gives_a_one_line_error_and_no_files(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text('{"cookiecutter": {"project_name": "Mine"}}')
    done = run("cookiecutter", TEMPLATE, "--replay-file", "some.json", cwd=tmp_path)
    assert done.returncode != 0
    (line,) = done.stdout.strip().splitlines()
    assert line.startswith("error: ")
    assert "replay file" in line
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["some.json"]


@pytest.mark.parametrize("typed", [None, "\n" * 20])
def test_an_unknown_question_is_rejected_with_the_list_of_questions(
    tmp_path: Path, typed: str | None
) -> None:
    options = [] if typed else ["--no-input"]
    done = run("cookiecutter", TEMPLATE, *options, "licence=MIT", cwd=tmp_path, typed=typed)
    assert done.returncode == 1
    last = done.stdout.rstrip().splitlines()[-1].rpartition("error: ")[2]
    assert "'licence'" in last
    assert "project_name, example, preset, " in last
    assert not [path for path in tmp_path.iterdir() if path.name[0] != "."]


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_choice_is_reported_and_creates_no_files(tmp_path: Path, name: str) -> None:
    done = render(tmp_path, **{name: "other"})
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line == f"error: {name} 'other': choose one of {', '.join(CHOICES[name])}"
    assert not (tmp_path / "my-project").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_rendering_works_in_terminals_that_lack_letters_of_the_answers(
    tmp_path: Path, encoding: str
) -> None:
    parent = tmp_path / "프로젝트"
    (parent / ".git").mkdir(parents=True)
    terminal = {"PYTHONIOENCODING": encoding}
    command: list[str | Path] = ["cookiecutter", TEMPLATE, "--no-input", "--output-dir", parent]
    done = run(*command, "author_name=한국", cwd=tmp_path, **terminal)
    assert done.returncode == 0, done.stdout
    assert_answers_are_unchanged(parent / "my-project", author_name="한국")
    done = run(*command, "author_name=한국 ", cwd=tmp_path, **terminal)
    assert done.returncode == 1
    assert "author_name" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("author", AUTHORS)
def test_the_project_can_be_installed_with_any_author_and_description(
    tmp_path: Path, author: str
) -> None:
    email, description = EMAILS[AUTHORS.index(author)], author[::-1]
    done = render(tmp_path, author_name=author, author_email=email, description=description)
    assert done.returncode == 0, done.stdout
    about = tmp_path / "about"
    about.mkdir()
    done = run("python", "-c", INSTALL, about, cwd=tmp_path / "my-project")
    assert done.returncode == 0, done.stdout
    (metadata,) = about.rglob("METADATA")
    assert f"\nSummary: {description}\n" in metadata.read_text(encoding="utf-8")


def test_a_slug_may_not_be_the_name_of_a_module_or_dependency() -> None:
    about = tomllib.loads((PAYLOAD / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = about["optional-dependencies"].values()
    needed = [need for needs in (about["dependencies"], *extras) for need in needs]
    packages = [re.split(r"[<>=\[{]", need)[0].replace(".", "-") for need in needed]
    files = [path for path in PAYLOAD.iterdir() if path.suffix == ".py" or path.is_dir()]
    modules = [path.stem for path in files if (path / "__init__.py").exists() or path.is_file()]
    devices = ["con", "aux", "nul", "prn", "com1", "lpt9"]
    for slug in filter(None, [*packages, *modules, *devices, "pytest__xdist"]):
        problem = HOOK.find_problem({"project_slug": slug})
        assert problem is not None
        assert "the name of" in problem, slug
        assert HOOK.find_problem({"project_slug": HOOK.make_slug(slug)}) is None


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_existing_file_or_folder_with_the_slugs_name_is_not_changed(
    tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "my-project").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/train.py").write_text("mine")
    options = ["--overwrite-if-exists"] if overwrite else []
    done = render(tmp_path, *options)
    assert done.returncode == 1
    (line,) = done.stdout.strip().splitlines()
    assert "my-project" in line
    assert (tmp_path / "my-project").read_text() == "mine"
    if not overwrite:
        done = render(tmp_path, project_slug="other")
        assert done.returncode == 1
        assert done.stdout == 'Error: "other" directory already exists\n'
        assert [path.name for path in (tmp_path / "other").iterdir()] == ["train.py"]


def test_a_failing_hook_removes_the_incomplete_project(tmp_path: Path) -> None:
    template = clone(tmp_path)
    (template / PAYLOAD.name / "licenses/MIT").unlink()
    done = render(tmp_path, template=template)
    assert done.returncode != 0
    assert "licenses/MIT" in done.stdout
    assert not (tmp_path / "my-project").exists()
    mine = tmp_path / "my-project/model/mine.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert render(tmp_path, "--overwrite-if-exists", template=template).returncode != 0
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("hook", sorted(TEMPLATE.glob("hooks/*.py")), ids=lambda path: path.name)
def test_hooks_use_no_shell_and_read_no_input(hook: Path) -> None:
    tree = ast.parse(hook.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.arg or "" for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert used.isdisjoint({"system", "popen", "shell", "input", "eval", "exec"})
