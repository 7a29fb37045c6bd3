"""What can be set: the schema's settings, and the arguments of the classes that settings name.

Constructors are read from their source, not imported: importing them would import torch, and a
typo in a setting could only be told seconds later.
"""

import argparse
import ast
import importlib
import json
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
from pydantic import Field

from config import schema
from config.schema import ClassSection, Section, Settings
from utils.errors import UserError

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    **vars(typing),
    **vars(schema),
    **{k.__name__: k for k in (bool, int, float, str, list, tuple, dict)},
}


def load_class(package: str, name: str, base: type[T]) -> type[T]:
    """The class called `name`, as ``file.Class``, in the folder `package` and nowhere else.

    Raises:
        UserError: if it does not derive from `base`.
    """
    file, _, class_name = name.partition(".")
    found: type[object] = getattr(importlib.import_module(f"{package}.{file}"), class_name)
    if not issubclass(found, base):
        raise UserError(f"{package}/{file}.py: {class_name} does not derive from {base.__name__}")
    return found


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
        return ast.parse(file.read_text("utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file} is not Python: {error}") from error


def constructor_arguments(package: str, name: str, given: frozenset[str]) -> type[Section]:
    """The arguments of class `name` of `package`, as a section that checks them.

    Arguments in `given`, and those whose annotation needs other than plain types, are passed by
    code and are no settings.
    """
    definition, fields = find_classes(package)[name], {}
    meanings = _meanings(ast.get_docstring(definition) or "")
    for argument, default in _parameters(definition):
        kind = _plain_type(argument.annotation)
        if kind is not None and argument.arg not in given:
            fields[argument.arg] = (kind, Field(default, description=meanings.get(argument.arg)))
    return pydantic.create_model(definition.name, __base__=Section, **fields)  # type: ignore[call-overload,no-any-return]


def _parameters(definition: ast.ClassDef) -> list[tuple[ast.arg, Any]]:
    """The parameters of the class's own constructor with their defaults; ``...`` is none."""
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = [*node.args.args, *node.args.kwonlyargs]
            given = [*node.args.defaults, *node.args.kw_defaults]
            values = [... if value is None else _plain_value(value, definition) for value in given]
            return list(zip(names, [...] * (len(names) - len(values)) + values, strict=True))
    return []


def _plain_value(node: ast.expr, definition: ast.ClassDef) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        text = f"line {node.lineno}: {definition.name} has the default {ast.unparse(node)}; "
        raise UserError(f"{text}write a plain value, as it is a setting's") from error


def _plain_type(annotation: ast.expr | None) -> Any:
    """The type that an annotation means, None if it needs other than plain types."""
    try:
        # The project's own source, and no names in it but those of plain types.
        return annotation and eval(ast.unparse(annotation), {"__builtins__": {}}, NAMES)
    except NameError:
        return None


def _meanings(docstring: str) -> dict[str, str]:
    """The ``Args:`` of a Google-style docstring, by argument."""
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", docstring, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in found}


SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


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
    kinds = part.model_json_schema().get("properties", {})
    for name, field in part.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        sections = [t for t in types if isinstance(t, type) and issubclass(t, Section)]
        for section in sections:
            choice = section.model_fields["name"].default if len(sections) > 1 else ""
            yield from rows(section, f"{prefix}{name}.", choice)
        if not sections:
            default = f"default {json.dumps(field.default, default=str)}"
            parts = [owner, _kind(kinds[name]), "required" if field.is_required() else default]
            meaning = textwrap.indent(textwrap.fill(field.description or "", 90), " " * 6)
            yield prefix + name, "; ".join(filter(None, parts)), meaning
    if issubclass(part, ClassSection):
        for place in find_classes(part.package):
            yield from rows(constructor_arguments(part.package, place, part.given), prefix, place)
