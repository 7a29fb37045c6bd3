"""Settings from a YAML file, the environment and ``KEY=VALUE`` arguments, checked as one."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from config.reference import constructor_arguments, find_classes, rows
from config.schema import ClassSection, Section, Settings
from utils.errors import UserError

S = TypeVar("S", bound=Section)
FIELDS = Settings.model_fields.items()  # with one kind of section each, or of value:
SECTIONS = {name: f.annotation for name, f in FIELDS if isinstance(f.annotation, type)}


def load_settings(source: Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Settings:
    """The settings of a YAML file, or of a mapping read before, changed by `overrides`.

    Args:
        source: the file, or the contents of one.
        overrides: ``section.key=value`` texts; the values are read as YAML. A new
            ``section.name`` drops what the source says of the class that it replaces.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    values = _read_yaml(source) if isinstance(source, Path) else json.loads(json.dumps(source))
    if "DATA_ROOT" in os.environ:
        _set(values, "data.root", os.environ["DATA_ROOT"])
    for override in sorted(overrides, key=lambda text: ".name=" not in text):  # names first
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is no setting; write KEY=VALUE, as in trainer.epochs=3")
        _set(values, key, _parse_yaml(text, f"the value of {key}"))
    settings = _validated(Settings, values)
    named = {name: part for name, part in settings if isinstance(part, ClassSection)}
    return settings.model_copy(update={name: _with_arguments(name, named[name]) for name in named})


def to_yaml(settings: Settings) -> str:
    """The settings as a YAML file that gives them back."""
    yaml, stream = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(settings.model_dump(mode="json"), stream)
    return stream.getvalue()


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = _parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the settings file {file}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no settings: it must be a mapping of names to values")
    return {"name": file.stem, **values}


def _parse_yaml(text: str, where: str) -> Any:
    """Reads YAML 1.2, in which 1e-3 is a number and `no` is a word."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{where} is not YAML;{line} {problem}") from error


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    section, dot, name = key.rpartition(".")
    inner = values.setdefault(section, {}) if dot else values
    if not isinstance(inner, dict):
        raise UserError(f"{key}: {section} = {inner!r} holds no further settings")
    if dot and name == "name" and inner.get("name") != value:
        keep = getattr(SECTIONS.get(section), "model_fields", {})
        values[section] = inner = {k: v for k, v in inner.items() if k in keep}
    inner[name] = value


def _with_arguments(section: str, options: ClassSection) -> ClassSection:
    """The section with the arguments of the class that it names checked and filled in."""
    classes = find_classes(options.package)
    if options.name not in classes:
        place = f"{section}.name = {options.name!r}: {options.package}/ has"
        raise UserError(f"{place} {', '.join(classes)}")
    accepted = constructor_arguments(options.package, options.name, options.given)
    arguments = _validated(accepted, options.model_extra or {}, section)
    return options.model_construct(**dict(options) | dict(arguments))


def _validated(schema: type[S], values: Mapping[str, Any], section: str = "") -> S:
    try:
        # As JSON: strict about numbers, texts and booleans, and a list may fill a tuple.
        return schema.model_validate_json(json.dumps(values, default=str))
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        raise UserError("\n       ".join(_describe(p, section) for p in found[:2])) from error


def _describe(problem: Any, section: str) -> str:
    """One of pydantic's errors in a line: the setting, its value, what is allowed."""
    path = [*section.split(), *map(str, problem["loc"])]
    if path[0] in Settings.model_fields and path[0] not in SECTIONS:
        del path[1:2]  # of several kinds of section, pydantic names the kind after the key
    key, kind, message = ".".join(path), problem["type"], problem["msg"]
    value = json.dumps(problem["input"], ensure_ascii=False)
    if kind == "missing":
        return f"{key} is missing"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(key, {row[0] for row in rows()} - {key}, n=1)
        return f"unknown setting {key}; " + (f"did you mean {near[0]}?" if near else "see --help")
    if kind == "union_tag_invalid":
        key, value = f"{key}.name", problem["ctx"]["tag"]
        message = f"should be one of {problem['ctx']['expected_tags']}"
    return f"{key} = {value[:60]}: {message.replace('Input should', 'should')}"
