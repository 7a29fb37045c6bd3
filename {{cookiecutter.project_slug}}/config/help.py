"""What can be set: the schema's settings, and the arguments of the classes that settings name.

Constructors are read from their source, not imported: importing them would import torch, and a
typo in a setting could only be told seconds later.
"""

import argparse
import ast
import json
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pydantic
from pydantic import Field

from config import schema
from config.schema import ClassSection, Section, Settings
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
NAMES = vars(typing) | vars(schema) | {k.__name__: k for k in (bool, int, float, str, list, tuple)}
SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
CLASSES = {
    "data": schema.DataSettings,
    "model": schema.ModelSettings,
    "trainer": schema.TrainerSettings,
}


@cache
def schema_with(*names: str) -> type[Settings]:
    """The schema with the arguments of the classes that `data`, `model` and `trainer` name."""
    sections = zip(CLASSES, CLASSES.values(), names, strict=True)
    fields: dict[str, Any] = {key: (complete(part, name), ...) for key, part, name in sections}
    return pydantic.create_model("Settings", __base__=Settings, **fields)


@cache
def complete(part: type[ClassSection], name: str) -> type[ClassSection]:
    """The section `part` with the arguments of the class called `name` as further settings.

    Arguments that code passes, and those whose annotation needs other than plain types, are none.
    If there is no such class, validation says which there are.
    """
    classes = find_classes(part.package)
    extra = {"extra": "forbid" if name in classes else "allow"}
    fields: dict[str, Any] = {"name": (Literal[*classes], ...)}
    if name in classes:
        meanings = _meanings(ast.get_docstring(classes[name]) or "")
        for argument, kind, default in _arguments(classes[name]):
            if argument not in part.given:
                fields[argument] = (kind, Field(default, description=meanings.get(argument)))
    section = pydantic.create_model(part.__name__, __base__=part, __cls_kwargs__=extra, **fields)
    section.arguments = {*fields} - {"name"}
    return section


@cache
def find_classes(package: str) -> dict[str, ast.ClassDef]:
    """The classes of `package` that settings can name, by ``file.Class``.

    Those are the ones whose base is imported by name, so not an ``nn.Module`` that others use.
    """
    trees = {file.stem: _parse(file) for file in (ROOT / package).glob("[!_]*.py")}
    nodes = [(stem, node) for stem, tree in sorted(trees.items()) for node in tree.body]
    classes = {f"{stem}.{n.name}": n for stem, n in nodes if isinstance(n, ast.ClassDef)}
    return {k: n for k, n in classes.items() if n.bases and isinstance(n.bases[0], ast.Name)}


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text("utf-8"), str(file))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file} is not Python: {error}") from error


def _arguments(definition: ast.ClassDef) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default (``...`` is none) of those of the constructor that are plain."""
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = [*node.args.args, *node.args.kwonlyargs]
            given = [*node.args.defaults, *node.args.kw_defaults]
            defaults = [None] * (len(names) - len(given)) + [*given]
            for argument, default in zip(names, defaults, strict=True):
                if (kind := _plain_type(argument.annotation)) is not None:
                    yield argument.arg, kind, _plain_value(default, definition) if default else ...


def _plain_type(annotation: ast.expr | None) -> Any:
    """The type that an annotation means, None if it needs other than plain types."""
    try:
        # The project's own source, and no names in it but those of plain types.
        return annotation and eval(ast.unparse(annotation), {"__builtins__": {}}, NAMES)
    except NameError:
        return None


def _plain_value(node: ast.expr, definition: ast.ClassDef) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        text = f"line {node.lineno}: {definition.name} has the default {ast.unparse(node)}; "
        raise UserError(f"{text}write a plain value, as it is a setting's") from error


def _meanings(docstring: str) -> dict[str, str]:
    """The ``Args:`` of a Google-style docstring, by argument."""
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", docstring, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in found}


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in words: ``number > 0 or null``."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    words = [", ".join(choices) or schema.get("type", "any")]
    return " ".join([*words, *(f"{sign} {schema[k]}" for k, sign in SIGNS.items() if k in schema)])


def command_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose `--help` lists every setting."""
    wanted = {"-h", "--help"} & set(sys.argv)
    lines = [f"  {key}  ({kind})\n{meaning}" for key, kind, meaning in rows()] if wanted else []
    layout, text = argparse.RawDescriptionHelpFormatter, "\n".join(["settings:", *lines])
    return argparse.ArgumentParser(description=description, epilog=text, formatter_class=layout)


def rows(
    part: type[Section] = Settings, prefix: str = "", owner: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Key, type and meaning of the settings of a section and of all sections in it.

    The type begins with the class or choice that has the setting, if not all have it.
    """
    # Of a section completed with a class's arguments, its own were told before.
    told = part.arguments if owner and issubclass(part, ClassSection) else part.model_fields
    kinds = part.model_json_schema().get("properties", {})
    for name, field in part.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        sections = [t for t in types if isinstance(t, type) and issubclass(t, Section)]
        choices = [s.model_fields["name"].default for s in sections] if len(sections) > 1 else []
        if choices:
            kind = f'{", ".join(choices)}; default "{field.default.name}"'
            yield f"{prefix}{name}.name", kind, "      Which of them."
        for number, section in enumerate(sections):
            yield from rows(section, f"{prefix}{name}.", choices[number] if choices else "")
        if not sections and name in told and not (owner and name == "name"):
            default = f"default {json.dumps(field.default, default=str)}"
            parts = [owner, _kind(kinds[name]), "required" if field.is_required() else default]
            meaning = textwrap.indent(textwrap.fill(field.description or "", 90), " " * 6)
            yield prefix + name, "; ".join(filter(None, parts)), meaning
    if issubclass(part, ClassSection) and not owner:
        for place in find_classes(part.package):
            yield from rows(complete(part, place), prefix, place)
