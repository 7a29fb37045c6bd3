"""Checks every answer before any file is written, and inserts answers into files as plain text.

Cookiecutter and cruft load this module as a Jinja extension, both for the questions and for the
files. An invalid answer is rejected with a one-line error, whether it was typed, passed as
``key=value``, or read from cookiecutter's settings or from a replay file.
"""

import json
import keyword
import logging
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import click
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment, Template
from jinja2.ext import Extension
from slugify import slugify

TEMPLATE = Path(__file__).parent.parent
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
PAYLOAD = "{{cookiecutter.project_slug}}"
CHOICES = {  # of the questions that have choices
    name: [choice for choice in prompt if choice != "__prompt__"]
    for name, prompt in QUESTIONS["__prompts__"].items()
    if isinstance(prompt, dict)
}

PACKAGES = (
    "base checks config data_loader evaluation experiments logger metrics model optim storage "
    "tests trainer utils"
)
MODULES = (
    "builders profiling run_description run_length run_record sanity_check "
    "schedule_preview train evaluate predict export preview check compare sweep"
)
FOLDERS = "runs data"
DEPENDENCIES = (
    "filelock matplotlib numpy pillow pydantic ruamel ruamel-yaml safetensors tensorboard torch "
    "torchmetrics torchvision tqdm onnx onnxruntime onnxscript mypy pre-commit pre-commit-hooks "
    "hypothesis pytest pytest-xdist ruff types-tqdm pip setuptools uv "
    "openpyxl optuna pandas pyarrow "
    "alembic mlflow mlflow-skinny sqlalchemy wandb"
)
DEVICES = "con prn aux nul " + " ".join(f"com{n} lpt{n}" for n in range(10))
RESERVED = {
    **dict.fromkeys(keyword.kwlist, "a Python keyword"),
    **dict.fromkeys(sys.stdlib_module_names, "a module of Python's standard library"),
    **dict.fromkeys(f"{PACKAGES} {MODULES} {FOLDERS}".split(), "a part of the generated project"),
    **dict.fromkeys(DEPENDENCIES.split(), "a package that the generated project uses"),
    **dict.fromkeys(DEVICES.split(), "a device on Windows"),
}
RESERVED = {name.replace("_", "-"): reason for name, reason in RESERVED.items()}
SLUG = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
MAX_SLUG_LENGTH = 64
MAX_SHOWN_LENGTH = 99  # characters of an answer in an error message
ALLOWED_SLUGS = (
    f"use 1 to {MAX_SLUG_LENGTH} lower-case letters, digits, '_' and '-'; start with a letter and "
    "end with a letter or digit"
)
# The addresses that setuptools accepts; with any other, the project could not be installed.
ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
EMAIL = re.compile(rf"{ATOM}(\.{ATOM})*@\w[\w-]*(\.\w[\w-]*)+")
LINE_BREAKS_AND_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories
REQUIRED = ("project_name", "author_name")
SKIPPED = "skipped-file"  # what the files of other options are written to, one over the other
TEMPORARY = ("INCOMPLETE.md", SKIPPED, *(f"licenses/{name}" for name in CHOICES["license"]))
INCOMPLETE = (  # if it was written by hand
    "error: the replay file contains only some of the answers; add the others or delete it"
)


def find_problem(answers: dict[str, Any]) -> str | None:
    """Returns what is wrong with the answers so far, in one line, or None."""
    if _hooks_are_refused():
        return (
            "--accept-hooks no: this template needs its hooks, which remove the files of the "
            "examples that are not selected; leave the option out"
        )
    unknown = _find_unknown_question()
    if unknown is not None:
        questions = ", ".join(name for name in QUESTIONS if not name.startswith("_"))
        return f"{unknown[:60]!r} is not a question of this template; use one of {questions}"
    for name, answer in answers.items():
        if name not in QUESTIONS:
            continue
        problem = _problem_of(name, answer)
        if problem is not None:
            shown = repr(answer)
            if len(shown) > MAX_SHOWN_LENGTH:
                shown = shown[: MAX_SHOWN_LENGTH - 3] + "..."
            return f"{name} {shown}: {problem}"
    return None


def _hooks_are_refused() -> bool:
    """Returns whether cookiecutter was called with ``--accept-hooks no``."""
    command = click.get_current_context(silent=True)
    return command is not None and command.params.get("accept_hooks") == "no"


def _find_unknown_question() -> str | None:
    """Returns the first of cookiecutter's ``key=value`` arguments that is not a question."""
    command = click.get_current_context(silent=True)
    if command is None:  # cookiecutter was called from Python
        return None
    given = command.params.get("extra_context")
    if not isinstance(given, dict):
        return None
    for name in given:
        if name not in QUESTIONS:
            return str(name)
    return None


def _problem_of(name: str, answer: Any) -> str | None:
    if name.startswith("__"):  # computed by cookiecutter.json
        return None
    if name.startswith("_"):
        if answer == QUESTIONS[name]:
            return None
        return "it belongs to another version of the template; answer again, without --replay"
    if name in CHOICES:
        return None if answer in CHOICES[name] else f"choose one of {', '.join(CHOICES[name])}"
    if not isinstance(answer, str):
        return "it is not text; enter text"
    if any(unicodedata.category(letter) in LINE_BREAKS_AND_CONTROLS for letter in answer):
        return "it contains control characters or line breaks; remove them"
    if name == "project_slug":
        return _problem_of_slug(answer)
    return _problem_of_text(name, answer)


def _problem_of_slug(slug: str) -> str | None:
    reserved = RESERVED.get(re.sub("[_-]+", "-", slug))
    if reserved:
        return f"it is the name of {reserved}; choose another name"
    if SLUG.fullmatch(slug) and len(slug) <= MAX_SLUG_LENGTH:
        return None
    return ALLOWED_SLUGS


def _problem_of_text(name: str, text: str) -> str | None:
    if text != text.strip():
        return "it starts or ends with a space; remove the space"
    if name in REQUIRED and not text:
        return "it is empty; enter at least one character"
    if name == "author_email" and not EMAIL.fullmatch(text):
        return "it is not an e-mail address; enter one such as name@example.com"
    return None


def check(answers: dict[str, Any]) -> str:
    """Returns an empty text if all answers are valid.

    Raises:
        FailedHookException: if one is invalid; cookiecutter prints its message and stops.
    """
    problem = find_problem(answers)
    if problem is not None:
        encoding = sys.stdout.encoding or "utf-8"  # the terminal may not support all letters
        shown = problem.encode(encoding, "backslashreplace").decode(encoding)
        raise FailedHookException(f"error: {shown}")
    return ""


def make_slug(text: Any) -> str:
    """Returns a valid slug for any project name."""
    if not isinstance(text, str):
        raise FailedHookException(INCOMPLETE)
    slug = slugify(text, max_length=MAX_SLUG_LENGTH - 8) or "project"
    if not slug[0].isalpha() or slug in RESERVED:
        slug = f"project-{slug}"
    return slug


def from_preset(answers: dict[str, Any], name: str) -> str:
    """Returns the answer of the preset to a question."""
    if "preset" not in answers:
        raise FailedHookException(INCOMPLETE)
    check(answers)
    answer: str = QUESTIONS["_presets"][answers["preset"]][name]
    return answer


def list_files(entries: list[str]) -> set[str]:
    """Returns the paths in the payload of files and of all files in the folders (``name/``)."""
    files: set[str] = set()
    for entry in entries:
        if not entry.endswith("/"):
            files.add(entry)
            continue
        for name in os.listdir(TEMPLATE / PAYLOAD / entry):
            if name != "__pycache__":
                files.add(entry + name)
    return files


def find_foreign(answers: dict[str, Any]) -> set[str]:
    """Returns the files of the payload that do not belong to a project with these answers.

    A file belongs to it if all options that list the file for some choice do so for the selected
    one. A file that no option lists belongs to every project.
    """
    foreign = {f"licenses/{name}" for name in CHOICES["license"] if name != answers["license"]}
    for option, choices in QUESTIONS["_files"].items():
        optional = [file for files in choices.values() for file in files]
        foreign |= list_files(optional) - list_files(choices[answers[option]])
    return foreign


def quote(text: str) -> str:
    """Escapes text for a double-quoted string in TOML, YAML or JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def escape_markdown(text: str) -> str:
    """Escapes text so that Markdown shows it unchanged, also at the start of a line."""
    text = re.sub(r"([\\`*\[\]<>#|~&$]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))", r"\\\1", text)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)


def escape_jinja(text: str) -> str:
    """Returns a Jinja expression that evaluates to the text."""
    escaped = text.encode("unicode_escape").decode().replace('"', r"\"")
    return f'{{{{ "{escaped}" }}}}'


def _texts_in(value: Any) -> set[str]:
    """Returns all texts in a value read from JSON, keys included."""
    if isinstance(value, str):
        return {value}
    texts: set[str] = set()
    if isinstance(value, dict):
        texts.update(value)
        value = value.values()
    for inner in value:
        texts |= _texts_in(inner)
    return texts


def protect(project: Path) -> None:
    """Stops before a file of the user is lost that has the name of a temporary file.

    Raises:
        FailedHookException: if the folder of the project already contains such a file, or is itself
            a file.
    """
    if os.path.lexists(project) and not project.is_dir():
        raise FailedHookException(
            f"error: {project.name} exists and is not a folder; choose another project_slug"
        )
    for file in TEMPORARY:
        if os.path.lexists(project / file):
            raise FailedHookException(
                f"error: {file} exists and would be lost: the template uses this name while it "
                "writes the project; move it elsewhere, then run the command again"
            )


class PlainText:
    """A template without expressions, which need not be compiled."""

    def __init__(self, text: str) -> None:
        self.text = text

    def render(self, **_: Any) -> str:
        """Returns the text."""
        return self.text


class Answers(Extension):
    """Provides the filters that cookiecutter.json and the files of the template use."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        filters = {"slug": make_slug, "quoted": quote, "markdown": escape_markdown}
        environment.filters.update(filters, checked=check, from_preset=from_preset)
        environment.filters.update(foreign=find_foreign, started=self.start_project)
        self.foreign: set[str] = set()  # the files that do not belong to the project
        self.must_protect = False
        self.compile = environment.from_string
        environment.from_string = self.from_string  # type: ignore[method-assign,assignment]
        hooks = (TEMPLATE / "hooks").glob("*.py")
        self.trusted = _texts_in(QUESTIONS) | {hook.read_text(encoding="utf-8") for hook in hooks}
        # cruft renders two versions of the template in one process; each must load its own hooks.
        sys.modules.pop(__name__, None)
        # The hooks print complete messages; cookiecutter would add a traceback.
        logging.getLogger("cookiecutter.hooks").setLevel(logging.CRITICAL)

    def start_project(self, answers: dict[str, Any]) -> str:
        """Checks all answers again. Cookiecutter has not created the project's folder yet."""
        check(answers)
        self.foreign = find_foreign(answers)
        self.must_protect = True
        return ""

    def from_string(self, source: str, *arguments: Any) -> Template | PlainText:
        """Replaces the environment's method, which compiles a text.

        Cookiecutter renders the name of each file: compiling the names takes a third of its time.
        Before it writes any file, it renders the absolute path of a folder in the project.

        The files of other options all get the same name: to create them and remove them again would
        take half as long as the rest of the rendering.
        """
        if self.must_protect and os.path.isabs(source):
            protect(Path(source).parent)
            self.must_protect = False
        if source.replace(os.sep, "/") in self.foreign:
            return PlainText(SKIPPED)
        if "{" not in source:
            return PlainText(source)
        return self.compile(source, *arguments)

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Escapes the texts that cookiecutter renders but that are not part of the template.

        These are the answers and the path of the output folder: Jinja in them could run any code.
        The name of the project folder is the first text to be rendered after the questions.
        """
        if source == PAYLOAD:
            return f"{{{{ cookiecutter | started }}}}{source}"
        if name in self.foreign:
            return ""
        if name or source in self.trusted:
            return source
        return escape_jinja(source)
