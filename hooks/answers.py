"""Checks every answer before anything is written, and puts it into files as nothing but text.

Cookiecutter loads this as a Jinja extension, for the questions and for the files alike, and so
does cruft. A bad answer is refused in one line, by whichever way it came: typed, as ``key=value``,
from cookiecutter's settings or from a replay file.
"""

import json
import keyword
import logging
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import click
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension
from slugify import slugify

TEMPLATE = Path(__file__).parent.parent
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
PAYLOAD = "{{cookiecutter.project_slug}}"

MODULES = "base builders config data_loader logger model storage trainer utils tests runs data"
COMMANDS = "train evaluate predict export preview"
DEPENDENCIES = (
    "filelock matplotlib numpy pillow pydantic ruamel ruamel-yaml safetensors tensorboard torch "
    "torchmetrics torchvision tqdm onnx onnxruntime onnxscript mypy pre-commit pre-commit-hooks "
    "pytest pytest-xdist ruff types-tqdm pip setuptools uv "
    "alembic mlflow mlflow-skinny sqlalchemy wandb"
)
DEVICES = "con prn aux nul " + " ".join(f"com{n} lpt{n}" for n in range(10))
RESERVED = {
    **dict.fromkeys(keyword.kwlist, "a Python keyword"),
    **dict.fromkeys(sys.stdlib_module_names, "a module of Python's standard library"),
    **dict.fromkeys(f"{MODULES} {COMMANDS}".split(), "a part of the generated project"),
    **dict.fromkeys(DEPENDENCIES.split(), "a package that the generated project uses"),
    **dict.fromkeys(DEVICES.split(), "a device on Windows"),
}
RESERVED = {name.replace("_", "-"): reason for name, reason in RESERVED.items()}
SLUG = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
LONGEST = 64
ALLOWED = (
    f"use 1 to {LONGEST} lower-case letters, digits, '_' and '-', beginning with a letter and "
    "ending with a letter or digit"
)
# As setuptools takes it; with another one the project could not be installed.
ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
EMAIL = re.compile(rf"{ATOM}(\.{ATOM})*@\w[\w-]*(\.\w[\w-]*)+")
ANOTHER = "the answers are to another version of the template; give them anew, without --replay"
REQUIRED = ("project_name", "author_name")


def find_problem(answers: dict[str, Any]) -> str | None:
    """What is wrong with the answers given so far, in one line; None if nothing is."""
    command = click.get_current_context(silent=True)  # cookiecutter's own, if it is that
    given = command.params.get("extra_context") if command else None
    for name in given if isinstance(given, dict) else ():
        if name not in QUESTIONS:
            asked = ", ".join(key for key in QUESTIONS if key[0] != "_")
            return f"{name[:60]!r} is no question; the questions are {asked}"
    for name, answer in answers.items():
        if name in QUESTIONS and (problem := _problem_of(name, answer)):
            shown = repr(answer)
            return f"{name} {shown if len(shown) <= 99 else shown[:96] + '...'}: {problem}"
    return None


def _problem_of(name: str, answer: Any) -> str | None:
    if name.startswith("__"):
        return None
    if name.startswith("_"):
        return None if answer == QUESTIONS[name] else ANOTHER
    if isinstance(QUESTIONS[name], list):
        return None if answer in QUESTIONS[name] else f"choose one of {QUESTIONS[name]}"
    if not isinstance(answer, str):
        return "this must be a text"
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in answer):
        return "no control characters or line breaks, please"
    return _problem_of_slug(answer) if name == "project_slug" else _problem_of_text(name, answer)


def _problem_of_slug(slug: str) -> str | None:
    reserved = RESERVED.get(re.sub("[_-]+", "-", slug))
    if reserved:
        return f"this is the name of {reserved}; choose another"
    return None if SLUG.fullmatch(slug) and len(slug) <= LONGEST else ALLOWED


def _problem_of_text(name: str, text: str) -> str | None:
    if text != text.strip():
        return "no spaces at the beginning or end, please"
    if name in REQUIRED and not text:
        return "this must not be empty"
    if name == "author_email" and not EMAIL.fullmatch(text):
        return "this is no e-mail address; it must look like name@example.com"
    return None


def check(answers: dict[str, Any]) -> str:
    """Nothing, if all is well."""
    if problem := find_problem(answers):
        terminal = sys.stdout.encoding or "utf-8"  # which may not have all letters
        shown = problem.encode(terminal, "backslashreplace").decode(terminal)
        raise FailedHookException(f"error: {shown}")
    return ""


def make_slug(text: Any) -> str:
    """A valid slug for a project name, whatever that is."""
    if not isinstance(text, str):  # of a replay file that somebody wrote
        raise FailedHookException("error: a replay file must hold all answers, or none")
    slug = slugify(text, max_length=LONGEST - 8) or "project"
    if not slug[0].isalpha() or slug in RESERVED:
        slug = f"project-{slug}"
    return slug


def find_foreign(answers: dict[str, Any]) -> str:
    """The files that come with options which were not chosen, with spaces between them."""
    options = answers["_files"]
    own = [file for name, files in options.items() for file in files[answers[name]]]
    all_files = [file for files in options.values() for some in files.values() for file in some]
    licenses = [f"licenses/{name}" for name in QUESTIONS["license"] if name != answers["license"]]
    return " ".join([*(file for file in dict.fromkeys(all_files) if file not in own), *licenses])


def quote(text: str) -> str:
    """Text as it stands between double quotes in TOML, YAML and JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def escape_markdown(text: str) -> str:
    """Text as Markdown that shows just that text, at the start of a line too."""
    text = re.sub(r"([\\`*\[\]<>#|~&$]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))", r"\\\1", text)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)


def escape_jinja(text: str) -> str:
    """Text as Jinja that shows just that text."""
    escaped = text.encode("unicode_escape").decode().replace('"', r"\"")
    return f'{{{{ "{escaped}" }}}}'


def _texts_in(value: Any) -> set[str]:
    """All texts in what was read from JSON."""
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return {value} if isinstance(value, str) else {text for v in inner for text in _texts_in(v)}


class Answers(Extension):
    """The filters that cookiecutter.json and the templates use."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        filters = {"slug": make_slug, "quoted": quote, "markdown": escape_markdown}
        environment.filters.update(filters, checked=check, foreign=find_foreign)
        hooks = (TEMPLATE / "hooks").glob("*.py")
        self.own = _texts_in(QUESTIONS) | {hook.read_text(encoding="utf-8") for hook in hooks}
        # cruft renders two versions of a template in one process; the next is to load its own.
        sys.modules.pop(__name__, None)
        # What a hook says is enough; cookiecutter adds a traceback of its own.
        logging.getLogger("cookiecutter.hooks").setLevel(logging.CRITICAL)

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Makes mere text of what cookiecutter renders but does not come from the template.

        Answers, that is, and the path to the folder that the project is made in: Jinja in them
        could run anything. All answers are checked once more when the project's folder gets its
        name, the first thing that is rendered after the questions.
        """
        if source == PAYLOAD:
            return f"{{{{ cookiecutter | checked }}}}{source}"
        return source if name or source in self.own else escape_jinja(source)
