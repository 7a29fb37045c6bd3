"""Reads settings from a YAML file, the environment and ``KEY=VALUE`` arguments, and checks them."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from ruamel.yaml import YAML

from config.classes import ROOT, find_class
from config.constructors import ClassSettings, class_settings, is_set_by_constructor
from config.schema import ClassSection, MayChangeOnResume, Section, Settings, section_kinds
from utils.errors import UserError

SectionT = TypeVar("SectionT", bound=ClassSection)

MAX_YAML_BYTES = 50_000  # of a settings file
MAX_YAML_PARTS = 50_000  # keys, values and punctuation after references are resolved
MAX_SHOWN_PROBLEMS = 2
MAX_SHOWN_CHARACTERS = 60  # of a key or a value that a message quotes
MAX_LISTED_CHARACTERS = 250  # of the names that a message lists


def _default_file() -> Path:
    """The settings file that commands read if none is named; config/default.txt names it."""
    pointer = ROOT / "config/default.txt"
    if not pointer.is_file():
        return pointer
    name = pointer.read_bytes().decode(errors="replace").strip()
    return pointer.parent / name


DEFAULT = _default_file()


def load_settings(source: Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Settings:
    """Reads and checks settings.

    What the schema knows is checked first. Only then are the classes imported that `data.name`,
    `model.name` and `trainer.name` name, and their arguments checked, because that imports torch.

    Args:
        source: a YAML file, or the settings in a checkpoint.
        overrides: ``section.key=value`` texts; the values are read as YAML. A new
            ``section.name`` removes the arguments of the class that it replaces.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    values = _read(source)
    if "DATA_ROOT" in os.environ:
        _set(values, "data.root", os.environ["DATA_ROOT"])
    for key, value in _parse_overrides(overrides):
        _set(values, key, value)
    settings = _check_schema(Settings, values)
    sections: dict[str, ClassSection] = {}
    problems: list[str] = []
    for key, section in settings:
        if isinstance(section, ClassSection):
            sections[key], found = _check_arguments(key, section)
            problems += found
    _raise_if_any(problems)
    return settings.model_copy(update=sections)


def load_section(key: str, kind: type[SectionT], values: Mapping[str, Any]) -> SectionT:
    """Checks the settings of one section that names a class, and the arguments of that class.

    Args:
        key: the name of the section, for messages.
        kind: the type of the section.
        values: plain values, as in a YAML file.

    Raises:
        UserError: as `load_settings` does.
    """
    section, problems = _check_arguments(key, _check_schema(kind, values, key))
    _raise_if_any(problems)
    return section


def to_yaml(settings: Settings) -> str:
    """Formats settings as the content of a YAML file that `load_settings` reads."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = StringIO()
    yaml.dump(settings.model_dump(mode="json"), stream)
    return stream.getvalue()


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Maps ``section.key`` to the value of each setting."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            for inner_key, inner_value in value.items():
                flat[f"{key}.{inner_key}"] = inner_value
        else:
            flat[key] = value
    return flat


# Resuming


def changes_that_need_force(
    state: Mapping[str, Any], settings: Settings, fingerprint: str
) -> list[str]:
    """Lists what differs from a checkpoint and makes the resumed run a different one.

    Settings marked with `MayChangeOnResume` are not listed, nor those that the checkpoint does not
    contain.

    Args:
        state: the content of the checkpoint.
        settings: the settings to resume with.
        fingerprint: the hash of the training set to resume with.
    """
    before = flatten(state["settings"])
    before["data"] = state["fingerprint"]
    now = flatten(settings.model_dump(mode="json"))
    now["data"] = fingerprint
    may_change = _may_change_on_resume(settings)
    changes: list[str] = []
    for key, value in now.items():
        if key in may_change or key not in before:
            continue
        if before[key] != value:
            changes.append(f"{key}: {before[key]} -> {value}")
    return changes


def _may_change_on_resume(settings: Settings) -> set[str]:
    """The keys of the settings that are marked, or whose section is."""
    keys: set[str] = set()
    for key, field in Settings.model_fields.items():
        section = getattr(settings, key)
        if not isinstance(section, Section):
            if _is_marked(field):
                keys.add(key)
            continue
        inner_fields: dict[str, Any] = dict(type(section).model_fields)
        if isinstance(section, ClassSection):
            inner_fields |= _settings_of_class(section).fields
        for name, inner_field in inner_fields.items():
            if _is_marked(field) or _is_marked(inner_field):
                keys.add(f"{key}.{name}")
    return keys


def _is_marked(field: Any) -> bool:
    return any(isinstance(mark, MayChangeOnResume) for mark in field.metadata)


# Reading


def _read(source: Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, Path):
        return _read_file(source)
    values: dict[str, Any] = _parse(source, "the checkpoint")
    return values


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_YAML_BYTES + 1)
        if len(content) > MAX_YAML_BYTES:
            raise UserError(
                f"{file} is too long for settings (the limit is {MAX_YAML_BYTES} bytes)"
            )
        text = content.decode()
    except OSError as error:
        names = ", ".join(sorted(path.name for path in ROOT.glob("config/*.yaml")))
        message = f"cannot read the settings file {file}: {error.strerror or error}"
        hint = f"config/ contains {names}; default.txt names the default"
        raise UserError(f"{message}\n{hint}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read the settings file {file}: {error}") from error
    values = _parse(text, str(file))
    if not isinstance(values, dict):
        raise UserError(f"{file} contains no settings; write one KEY: VALUE per line")
    return {"name": file.stem, **values}


def _parse(source: str | Mapping[str, Any], origin: str) -> Any:
    """Reads YAML 1.2 (1e-3 is a number, `no` is text), or copies a mapping, as plain JSON types.

    The number of values is limited, because references to references can expand without end.
    """
    try:
        values: Any = source
        if isinstance(source, str):
            values = YAML(typ="safe", pure=True).load(source)
        encoder = json.JSONEncoder(default=str)
        parts = list(islice(encoder.iterencode(values), MAX_YAML_PARTS))
        if len(parts) == MAX_YAML_PARTS:
            raise ValueError("it contains too many values")
        return json.loads("".join(parts))
    except Exception as error:  # malicious content can raise any
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", error)).split())[:200]
        if mark is not None:
            problem = f"line {mark.line + 1}: {problem}"
        raise UserError(f"{origin} is not valid YAML for settings; {problem}") from error


def _parse_overrides(overrides: Iterable[str]) -> list[tuple[str, Any]]:
    """Splits ``KEY=VALUE`` texts; names of classes come first, as they remove arguments."""
    names: list[tuple[str, Any]] = []
    others: list[tuple[str, Any]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[\w.]{1,60}", key):
            shown = repr(override[:MAX_SHOWN_CHARACTERS])
            raise UserError(f"{shown} must be KEY=VALUE, as in seed=3")
        value = _parse(text, f"the value of {key}")
        if key.endswith(".name"):
            names.append((key, value))
        else:
            others.append((key, value))
    return names + others


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets one value.

    A new class keeps the settings that are not arguments of the class, such as `data.batch_size`.
    A new optimizer or scheduler keeps none.
    """
    section_key, dot, name = key.rpartition(".")
    if not dot:
        values[key] = value
        return
    section = values.setdefault(section_key, {})
    if not isinstance(section, dict):
        shown = repr(str(section)[:MAX_SHOWN_CHARACTERS])
        raise UserError(f"{key}: {section_key} = {shown} is not a section; use {section_key}=VALUE")
    if name == "name" and section.get("name") != value:
        kinds = _kinds_of_section(section_key)
        kept = kinds[0].model_fields if len(kinds) == 1 else {}
        section = {inner: value for inner, value in section.items() if inner in kept}
        values[section_key] = section
    section[name] = value


# Checking

CheckedT = TypeVar("CheckedT", bound=Section)


def _check_schema(kind: type[CheckedT], values: Mapping[str, Any], key: str = "") -> CheckedT:
    try:
        # JSON is strict about numbers, texts and booleans, but a list may fill a tuple.
        return kind.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        raise UserError(_join([_describe(problem, values, key) for problem in found])) from error


def _settings_of_class(section: ClassSection) -> ClassSettings:
    cls: type = find_class(section.package, section.name, section.base)
    return class_settings(cls, type(section), section.name)


def _check_arguments(key: str, section: SectionT) -> tuple[SectionT, list[str]]:
    """Checks the arguments of the class that a section names and adds those with defaults.

    Returns:
        The section with all settings of the class as validated objects, and the problems found.
    """
    try:
        settings = _settings_of_class(section)
    except UserError as error:
        return section, [f"{key}.name = {_quote(section.name)}: {error}"]
    problems = _check_names(key, section, settings)
    given = {n: value for n, value in section.arguments.items() if n in settings.fields}
    try:
        model = settings.model.model_validate_json(json.dumps(given))
    except pydantic.ValidationError as error:
        for problem in error.errors(include_url=False):
            problems.append(_describe(problem, {}, key))
        return section, problems
    arguments: dict[str, Any] = {}
    for field_name, field in settings.model.model_fields.items():
        if field_name in model.model_fields_set or not is_set_by_constructor(field):
            arguments[str(field.alias)] = getattr(model, field_name)
    return section.model_copy(update=arguments), problems


def _check_names(key: str, section: ClassSection, settings: ClassSettings) -> list[str]:
    """Problems with the names of arguments, and with parameters that no setting can fill."""
    problems: list[str] = []
    for name in settings.unfillable:
        problems.append(f"{key}.{name}: {settings.unusable[name]}")
    known = [*settings.fields, *type(section).model_fields]
    for name in section.arguments:
        if name in known or name in settings.unfillable:
            continue
        if name in settings.unusable:
            problems.append(f"{key}.{name}: {settings.unusable[name]}")
        else:
            problems.append(_unknown(key, name, known))
    return problems


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise UserError(_join(problems))


def _join(problems: list[str]) -> str:
    return "\n       ".join(problems[:MAX_SHOWN_PROBLEMS])


# Messages


def _describe(problem: Any, values: Mapping[str, Any], section: str) -> str:
    """One of pydantic's errors in a line: the setting, its value and what is allowed."""
    path = [str(part) for part in problem["loc"]]
    if section:
        path.insert(0, section)
    if len(path) > 1 and len(_kinds_of_section(path[0])) > 1:
        del path[1]  # pydantic inserts the name of the optimizer or scheduler
    key = _printable(".".join(path) or "settings")
    error = problem["type"]
    if error == "missing":
        return f"{key} is missing; set it in the settings file or by {key}=VALUE"
    if error == "union_tag_not_found":
        return f"{key}.name is missing; set it in the settings file or by {key}.name=VALUE"
    if error == "union_tag_invalid":
        tag = _quote(problem["ctx"]["tag"])
        allowed = problem["ctx"]["expected_tags"]
        return f"{key}.name = {tag}: should be one of {allowed}"
    if error == "extra_forbidden":
        return _unknown(".".join(path[:-1]), path[-1], _known_names(path[:-1], values))
    message = problem["msg"].removeprefix("Input ").replace("array", "list [a, b]")
    return f"{key} = {_quote(problem['input'])}: {message}"


def _known_names(path: list[str], values: Mapping[str, Any]) -> list[str]:
    """The names of the settings in the section at a path."""
    if not path:
        return list(Settings.model_fields)
    if len(path) > 1:
        return []
    kinds = _kinds_of_section(path[0])
    if len(kinds) == 1:
        return list(kinds[0].model_fields)
    for kind in kinds:
        if kind.model_fields["name"].default == values[path[0]]["name"]:
            return list(kind.model_fields)
    return []


def _kinds_of_section(key: str) -> list[type[Section]]:
    """The types that a section may have: several for an optimizer or a scheduler."""
    field = Settings.model_fields.get(key)
    if field is None:
        return []
    return section_kinds(field)


def _unknown(section: str, name: str, known: list[str]) -> str:
    prefix = f"{section}." if section else ""
    message = f"unknown setting {_printable(prefix + name)}"
    similar = difflib.get_close_matches(name, known, n=1)
    if similar:
        return f"{message}; did you mean {prefix}{similar[0]}?"
    if known:
        allowed = ", ".join(known)[:MAX_LISTED_CHARACTERS]
        return f"{message}; use one of {allowed} (see --help)"
    return f"{message}; see --help"


def _printable(key: str) -> str:
    """A key without control characters, which might clear the screen of a terminal."""
    return json.dumps(key)[1:-1][:MAX_SHOWN_CHARACTERS]


def _quote(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:MAX_SHOWN_CHARACTERS]
