"""Checks every answer before anything is written.

Cookiecutter runs this file as a hook, after it has made the folder; on failure it removes the
folder and prints a traceback of its own. The same checks are therefore also a Jinja extension
(`Answers`), which refuses a bad answer while the questions are still being asked: one line, and
nothing was made. The hook is left for answers that come from a replay file.
"""

import os
import sys

# What a project with other options has; it would be overwritten, and then removed.
FOREIGN = "{{ cookiecutter.__foreign }}"
if __name__ == "__main__":
    for file in FOREIGN.split():
        if os.path.exists(file):
            sys.exit(f"error: {file} is there, and in no project with these options; move it away")

CHECKED = "TORCH_TEMPLATE_ANSWERS_CHECKED"  # set by the extension, for the hook that follows it
if __name__ == "__main__" and CHECKED in os.environ:
    sys.exit()  # before anything more is imported, which takes longer than the checks

import json
import keyword
import re
import unicodedata
from typing import Any

MODULES = "base builders config data_loader logger model storage trainer utils tests runs data"
COMMANDS = "train evaluate predict export preview"
DEPENDENCIES = (
    "matplotlib numpy pillow pydantic ruamel safetensors tensorboard torch torchmetrics "
    "torchvision tqdm onnx onnxruntime onnxscript mypy pytest ruff pip setuptools uv "
    "mlflow sqlalchemy alembic wandb"
)
RESERVED = {
    **dict.fromkeys(keyword.kwlist, "a Python keyword"),
    **dict.fromkeys(sys.stdlib_module_names, "a module of Python's standard library"),
    **dict.fromkeys(f"{MODULES} {COMMANDS}".split(), "a part of the generated project"),
    **dict.fromkeys(DEPENDENCIES.split(), "a package that the generated project uses"),
}
SLUG = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
LONGEST = 64
ALLOWED = (
    f"use 1 to {LONGEST} lower-case letters, digits, '_' and '-', beginning with a letter and "
    "ending with a letter or digit"
)
EMAIL = re.compile(r"[^\s@<>(),;:\"\\]+@[^\s@<>(),;:\"\\]+")
REQUIRED = ("project_name", "author_name")
TEXTS = ("project_name", "project_slug", "description", "author_name", "author_email")


def find_problem(answers: dict[str, str]) -> str | None:
    """What is wrong with the answers given so far, in one line; None if nothing is."""
    for name, text in answers.items():
        if name in TEXTS and (problem := _problem_of(name, text)):
            return f"{name} {text!r}: {problem}"
    return None


def _problem_of(name: str, text: str) -> str | None:
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        return "no control characters or line breaks, please"
    if name == "project_slug":
        reserved = RESERVED.get(text.replace("-", "_"))
        if reserved:
            return f"this is the name of {reserved}; choose another"
        return None if SLUG.fullmatch(text) and len(text) <= LONGEST else ALLOWED
    if text != text.strip():
        return "no spaces at the beginning or end, please"
    if name in REQUIRED and not text:
        return "this must not be empty"
    if name == "author_email" and not EMAIL.fullmatch(text):
        return "this is no e-mail address; it must look like name@example.com"
    return None


def make_slug(text: str) -> str:
    """A valid slug for a project name, whatever that is."""
    from slugify import slugify

    slug = slugify(text, max_length=LONGEST - 8) or "project"
    if not slug[0].isalpha() or slug.replace("-", "_") in RESERVED:
        slug = f"project-{slug}"
    return slug


def find_foreign(answers: dict[str, Any]) -> str:
    """The files that come with options which were not chosen, with spaces between them."""
    options = answers["_files"]
    own = [file for name, files in options.items() for file in files[answers[name]]]
    all_files = [file for files in options.values() for some in files.values() for file in some]
    return " ".join(file for file in dict.fromkeys(all_files) if file not in own)


def quote(text: str) -> str:
    """Text as it stands between double quotes in TOML, YAML and JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def escape_markdown(text: str) -> str:
    """Text as Markdown that shows just that text, at the start of a line too."""
    text = re.sub(r"([\\`*\[\]<>#|~&$]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))", r"\\\1", text)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", text)


if __name__ == "__main__":
    problem = find_problem(json.loads(r"""{{ cookiecutter | tojson }}"""))
    sys.exit(f"error: {problem}" if problem else 0)
else:
    from cookiecutter.exceptions import FailedHookException
    from jinja2 import Environment
    from jinja2.ext import Extension

    def check(answers: dict[str, str]) -> str:
        """Nothing, if all is well; used as a filter in cookiecutter.json."""
        if problem := find_problem(answers):
            raise FailedHookException(f"error: {problem}")
        os.environ[CHECKED] = "yes"
        return ""

    class Answers(Extension):
        """The filters that cookiecutter.json and the templates use."""

        def __init__(self, environment: Environment) -> None:
            super().__init__(environment)
            filters = {"slug": make_slug, "quoted": quote, "markdown": escape_markdown}
            environment.filters.update(filters, checked=check, foreign=find_foreign)
