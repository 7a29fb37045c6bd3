"""Reads settings as plain values: from YAML files, which may extend one another, and KEY=VALUE."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from config.classes import ROOT, find_component
from config.schema import NO_CLASS, Settings, TrainerSettings, name_to_mapping, section_type
from utils.errors import UserError

MAX_YAML_BYTES = 50_000  # of a settings file
MAX_YAML_PARTS = 50_000  # keys, values and punctuation after references are resolved
MAX_SHOWN_CHARACTERS = 60  # of a key or a value that a message quotes


def _default_file() -> Path:
    """The settings file that commands read if none is named; config/default.txt names it."""
    pointer = ROOT / "config/default.txt"
    if not pointer.is_file():
        return pointer
    name = pointer.read_bytes().decode(errors="replace").strip()
    return pointer.parent / name


DEFAULT = _default_file()


def read_file(file: Path) -> dict[str, Any]:
    """The settings in a YAML file, on top of those of the file that its key ``extends`` names.

    Mappings are merged, unless they name different classes; any other value, also a list, replaces
    that of the parent.

    Raises:
        UserError: if a file cannot be read, is not valid, or extends itself.
    """
    return {"name": file.stem, **_read_with_parents(file, children=[])}


def _read_with_parents(file: Path, children: list[Path]) -> dict[str, Any]:
    if file.resolve() in children:
        raise UserError(f"extends: {file} extends itself, through {children[-1].name}")
    values = _read_single(file)
    if "extends" not in values:
        return values
    parent = values.pop("extends")
    if not isinstance(parent, str):
        raise UserError(f"{file}: extends = {parent!r} must be the name of a file")
    parent_file = file.parent / parent
    if not parent_file.is_file():
        raise UserError(f"{file}: extends = {parent}: there is no file {parent_file}")
    inherited = _read_with_parents(parent_file, [*children, file.resolve()])
    inherited.pop("name", None)  # each file has its own run folders
    # First the trainer: another one removes the arguments of the previous default loss.
    for key in sorted(values, key=_trainer_first):
        value = values[key]
        sections = (value, inherited.get(key))
        if all(isinstance(section, dict) for section in sections) and "name" in value:
            set_value(inherited, f"{key}.name", value["name"])  # another class, other arguments
    return _merge(inherited, values)


def _trainer_first(key: str) -> bool:
    return key != "trainer"


def _merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in child.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge_sections(merged[key], value)
        else:
            merged[key] = value
    return merged


def _merge_sections(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    if "name" in child and child["name"] != parent.get("name"):
        return child  # another class, other arguments
    return _merge(parent, child)


def _read_single(file: Path) -> dict[str, Any]:
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
    values = parse(text, str(file))
    if not isinstance(values, dict):
        raise UserError(f"{file} contains no settings; write one KEY: VALUE per line")
    return values


def parse(source: str | Mapping[str, Any], origin: str) -> Any:
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


def parse_overrides(overrides: Iterable[str]) -> list[tuple[str, Any]]:
    """Splits ``KEY=VALUE`` texts.

    Names of classes come first, as they remove arguments. The arguments of an inner section, such
    as `data.sampler.weights`, come last, as `data.sampler` removes them.
    """
    names: list[tuple[str, Any]] = []
    others: list[tuple[str, Any]] = []
    inner: list[tuple[str, Any]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[\w.]{1,60}", key):
            shown = repr(override[:MAX_SHOWN_CHARACTERS])
            raise UserError(f"{shown} must be KEY=VALUE, as in seed=3")
        if any("\udc80" <= letter <= "\udcff" for letter in text):
            raise UserError(
                f"the value of {key} is not text in this terminal's "
                "encoding; set PYTHONUTF8=1 in the environment"
            )
        if not text.strip():  # such as KEY=$NAME with an empty variable
            raise UserError(
                f"{key}= has no value; give one, or leave it out ({key}=null stands for none)"
            )
        try:
            value = parse(text, f"the value of {key}")
        except UserError as error:
            quoted = json.dumps(text[:MAX_SHOWN_CHARACTERS], ensure_ascii=False)
            raise UserError(f"{error}; write a text as {shlex.quote(f'{key}={quoted}')}") from error
        is_inner = key.count(".") > 1
        if key.endswith(".name") and not is_inner:
            names.append((key, value))
        elif is_inner:
            inner.append((key, value))
        else:
            others.append((key, value))
    names.sort(key=_trainer_name_first)
    inner.sort(key=_is_argument)
    return names + others + inner


def _trainer_name_first(override: tuple[str, Any]) -> bool:
    key, _ = override
    return key != "trainer.name"


def _is_argument(override: tuple[str, Any]) -> bool:
    key, _ = override
    return not key.endswith(".name")


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets one value.

    A new class keeps the settings that are not arguments of the class, such as `data.batch_size`.
    A new trainer does not keep the arguments of a loss without a name, which is the default loss of
    the previous trainer.
    """
    section_key, dot, name = key.rpartition(".")
    if not dot:
        values[key] = value
        return
    kept = fields_of_section(section_key)
    outer_key, _, inner_key = section_key.partition(".")
    if inner_key and not kept:
        raise UserError(f"{key}: a key has two parts; use {_as_nested_value(key)}")
    if inner_key:  # an inner section, such as data.sampler
        values = _section(values, outer_key, key)
        values[inner_key] = name_to_mapping(values.get(inner_key, {}))
        section_key = inner_key
    section = _section(values, section_key, key)
    if name == "name" and _class_of(section_key, section, values, kept) != value:
        section = {inner: value for inner, value in section.items() if inner in kept}
        values[section_key] = section
        if section_key == "trainer" and "name" not in values.get("loss", {}):
            values.pop("loss", None)
    section[name] = value


def _class_of(
    section_key: str,
    section: Mapping[str, Any],
    values: Mapping[str, Any],
    fields: Mapping[str, FieldInfo],
) -> Any:
    """The name of the class whose arguments a section contains, which may be the default."""
    if "name" in section:
        return section["name"]
    if section_key == "loss":
        return _default_loss(values)
    if "name" in fields:
        return fields["name"].default
    return NO_CLASS  # an unknown section is reported later


def _default_loss(values: Mapping[str, Any]) -> str:
    """The loss that the trainer uses if none is named; imports the trainer, and so torch."""
    trainer = values.get("trainer")
    if not isinstance(trainer, dict) or not isinstance(trainer.get("name"), str):
        return NO_CLASS  # reported later
    try:
        default_loss: str = find_component(TrainerSettings, trainer["name"]).default_loss
    except UserError:  # reported later
        return NO_CLASS
    return default_loss


def _section(values: dict[str, Any], section_key: str, key: str) -> dict[str, Any]:
    """The values of a section in which `key` is set."""
    section: Any = values.setdefault(section_key, {})
    if not isinstance(section, dict):
        raise UserError(f"{key}: {no_section(section_key, section)}")
    return section


def _as_nested_value(key: str) -> str:
    """How a value within a setting is written: ``optimizer.groups={stem: {lr: VALUE}}``."""
    section, setting, *inner_names = key.split(".")
    text = "VALUE"
    for name in reversed(inner_names):
        text = f"{{{name}: {text}}}"
    return f"{section}.{setting}={text}"


def no_section(key: str, value: Any) -> str:
    """A message about another value where a section is expected, or the name of a setting."""
    shown = json.dumps(value, ensure_ascii=False)[:MAX_SHOWN_CHARACTERS]
    message = f"{key} = {shown} is not a section"
    fields = fields_of_section(key)
    if not fields:
        return f"{message}; use {key}=VALUE"
    if isinstance(value, str) and "name" in fields:
        return f"{message}; use {key}.name={value[:MAX_SHOWN_CHARACTERS]}"
    if value is None:
        return f"{message}; remove it, or give settings such as {key}.{next(iter(fields))}"
    names = ", ".join(fields)
    return f"{message}; set {key}.NAME=VALUE, where NAME is one of {names}"


def fields_of_section(key: str) -> Mapping[str, FieldInfo]:
    """The fields of a section, such as data or data.sampler, without arguments of its class."""
    fields: Mapping[str, FieldInfo] = Settings.model_fields
    for name in key.split("."):
        if name not in fields:
            return {}
        section = section_type(fields[name])
        if section is None:
            return {}
        fields = section.model_fields
    return fields
