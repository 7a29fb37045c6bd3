"""Checks the settings from a YAML file, the environment and ``KEY=VALUE`` arguments."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from config.classes import find_component
from config.constructors import ClassSettings, class_settings, is_set_by_constructor
from config.reading import (
    fields_of_section,
    no_section,
    parse,
    parse_overrides,
    read_file,
    set_value,
)
from config.schema import (
    NO_CLASS,
    ClassSection,
    LossSettings,
    MayChangeOnResume,
    OptimizerSettings,
    SamplerSettings,
    Section,
    Settings,
    TrainerSettings,
)
from config.suggestions import advice
from utils.errors import UserError
from utils.paths import expand_home

SectionT = TypeVar("SectionT", bound=ClassSection)

UNUSUAL_LINE_BREAKS = re.compile(r"[\r\x85\u2028\u2029]")  # other quotes would fold them
ALTERNATIVE = re.compile(r"\w+\[.*\]")
MAX_SHOWN_PROBLEMS = 2
MAX_EXACT_FLOAT = 1e15  # of larger ones, not every whole number is a float
MAX_SHOWN_CHARACTERS = 60  # of a key or a value that a message quotes


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
    if isinstance(source, Path):
        values = read_file(source)
    else:
        values = parse(source, "the checkpoint")
    data_root = os.environ.get("DATA_ROOT")
    if data_root:  # an empty variable counts as unset
        set_value(values, "data.root", data_root)
    for key, value in parse_overrides(overrides):
        set_value(values, key, value)
    values = expand_home(values)
    settings = _with_loss_of_trainer(_check_schema(Settings, values, all_values=values))
    values["loss"] = {**values.get("loss", {}), "name": settings.loss.name}  # for suggestions
    sections: dict[str, ClassSection] = {}
    problems: list[str] = []
    for key, section in settings:
        if isinstance(section, ClassSection):
            sections[key], found = _check_arguments(key, section, values)
            problems += found
    _raise_if_any(problems)
    return settings.model_copy(update=sections)


def _with_loss_of_trainer(settings: Settings) -> Settings:
    """The settings with the `default_loss` of the trainer, unless they name a loss."""
    if settings.loss.name != NO_CLASS:
        return settings
    try:
        trainer = find_component(TrainerSettings, settings.trainer.name)
    except UserError:  # reported with the other problems
        return settings.model_copy(update={"loss": LossSettings()})
    loss = settings.loss.model_copy(update={"name": trainer.default_loss})
    return settings.model_copy(update={"loss": loss})


def load_section(key: str, kind: type[SectionT], values: Mapping[str, Any]) -> SectionT:
    """Checks the settings of one section that names a class, and the arguments of that class.

    Args:
        key: the name of the section, for messages.
        kind: the type of the section.
        values: plain values, as in a YAML file.

    Raises:
        UserError: as `load_settings` does.
    """
    section, problems = _check_arguments(key, _check_schema(kind, values, key), all_values={})
    _raise_if_any(problems)
    return section


def to_yaml(settings: Settings) -> str:
    """Formats settings as the content of a YAML file that `load_settings` reads."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = StringIO()
    yaml.dump(settings.model_dump(mode="json"), stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Writes texts with unusual line breaks in double quotes, in which they are escaped."""

    def represent_str(self, data: str) -> Any:
        style = None
        if UNUSUAL_LINE_BREAKS.search(data):
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


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
        if isinstance(section, ClassSection) and section.name != NO_CLASS:
            inner_fields |= settings_of_class(section).fields
        for name, inner_field in inner_fields.items():
            if _is_marked(field) or _is_marked(inner_field):
                keys.add(f"{key}.{name}")
    return keys


def _is_marked(field: Any) -> bool:
    return any(isinstance(mark, MayChangeOnResume) for mark in field.metadata)


# Checking

CheckedT = TypeVar("CheckedT", bound=Section)


def _check_schema(
    kind: type[CheckedT],
    values: Mapping[str, Any],
    key: str = "",
    all_values: Mapping[str, Any] | None = None,
) -> CheckedT:
    """Checks plain values; `all_values` are those of all settings, for suggestions."""
    try:
        # JSON is strict about numbers, texts and booleans, but a list may fill a tuple.
        return kind.model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        problems = [_describe(problem, key, all_values or {}) for problem in found]
        raise UserError(_join(problems)) from error


def settings_of_class(section: ClassSection) -> ClassSettings:
    """The settings of the class that a section names.

    Raises:
        UserError: if there is no such class.
    """
    component = find_component(type(section), section.name)
    return class_settings(component, type(section), section.name)


def _check_arguments(
    key: str, section: SectionT, all_values: Mapping[str, Any]
) -> tuple[SectionT, list[str]]:
    """Checks the arguments of the class that a section names and adds those with defaults.

    Args:
        key: the name of the section.
        section: the section.
        all_values: the values of all settings, for suggestions.

    Returns:
        The section with all settings of the class as validated objects, and the problems found.
    """
    inner_sections, problems = _check_inner_sections(key, section, all_values)
    section = section.model_copy(update=inner_sections)
    if section.may_be_none and section.name == NO_CLASS:
        for name in section.arguments:
            problems.append(f"{key}.{name}: {key}.name is missing, whose argument this is")
        return section, problems
    try:
        settings = settings_of_class(section)
    except UserError as error:
        name_key = f"{key}.name"
        if isinstance(section, SamplerSettings):
            name_key = key  # it is set by data.sampler=NAME
        return section, [*problems, f"{name_key} = {_quote(section.name)}: {error}"]
    problems += _check_names(key, section, settings, all_values)
    if isinstance(section, OptimizerSettings):
        problems += _check_groups(f"{key}.groups", section.groups, settings)
    given = {n: value for n, value in section.arguments.items() if n in settings.fields}
    try:
        model = settings.model.model_validate_json(json.dumps(given))
    except pydantic.ValidationError as error:
        for problem in error.errors(include_url=False):
            problems.append(_describe(problem, key))
        return section, problems
    arguments: dict[str, Any] = {}
    for field_name, field in settings.model.model_fields.items():
        if field_name in model.model_fields_set or not is_set_by_constructor(field):
            arguments[str(field.alias)] = getattr(model, field_name)
    return section.model_copy(update=arguments), problems


def _check_inner_sections(
    key: str, section: ClassSection, all_values: Mapping[str, Any]
) -> tuple[dict[str, ClassSection], list[str]]:
    """Checks the arguments of the sections in a section, such as `data.sampler`."""
    checked: dict[str, ClassSection] = {}
    problems: list[str] = []
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, ClassSection):
            checked[name], found = _check_arguments(f"{key}.{name}", inner, all_values)
            problems += found
    return checked, problems


def _check_groups(
    key: str, groups: Mapping[str, Mapping[str, Any]], settings: ClassSettings
) -> list[str]:
    """Problems with the arguments of parameter groups."""
    problems: list[str] = []
    for pattern, arguments in groups.items():
        path = f"{key}.{pattern}"
        for name, value in arguments.items():
            if name not in settings.fields:
                problems.append(_unknown(path, name, [*settings.fields], {}))
                continue
            try:
                settings.model.model_validate_json(json.dumps({name: value}))
            except pydantic.ValidationError as error:
                for problem in error.errors(include_url=False):
                    if problem["loc"][0] == name:
                        problems.append(_describe(problem, path))
    return problems


def _check_names(
    key: str, section: ClassSection, settings: ClassSettings, all_values: Mapping[str, Any]
) -> list[str]:
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
            problems.append(_unknown(key, name, known, all_values))
    return problems


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise UserError(_join(problems))


def _join(problems: list[str]) -> str:
    return "\n       ".join(problems[:MAX_SHOWN_PROBLEMS])


# Messages


def _describe(problem: Any, section: str, all_values: Mapping[str, Any] | None = None) -> str:
    """One of pydantic's errors in a line: the setting, its value and what is allowed."""
    path = [str(part) for part in problem["loc"]]
    if problem["type"] != "extra_forbidden":
        # Where a type has alternatives, pydantic adds the one that it tried: dict[str,float].
        path = [part for part in path if not ALTERNATIVE.fullmatch(part)]
    if section:
        path.insert(0, section)
    key = _printable(".".join(path) or "settings")
    error = problem["type"]
    if error == "missing":
        return f"{key} is missing; set it in the settings file or by {key}=VALUE"
    if error == "extra_forbidden":
        known = _known_names(path[:-1])
        return _unknown(".".join(path[:-1]), path[-1], known, all_values or {})
    if error == "model_type" and path[0] in Settings.model_fields and len(path) == 1:
        return no_section(path[0], problem["input"])
    message = (
        problem["msg"]
        .removeprefix("Input ")
        .removeprefix("Value error, ")
        .replace("array", "list [a, b]")
    )
    message += _how_to_write(key, error, problem["input"])
    return f"{key} = {_quote(problem['input'])}: {message}"


def _how_to_write(key: str, error: str, value: Any) -> str:
    """How a value of another type is written, for the end of a message."""
    if value is None:
        return "; null and ~ stand for no value"
    if error == "string_type" and not isinstance(value, dict | list):
        return f"; quotes make it one, as in {key}='\"{_quote(value)}\"'"
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT_FLOAT
    if error == "int_type" and is_whole:
        return f"; write it without a point or an exponent: {value:.0f}"
    if error in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        with suppress(UserError):  # it is no YAML
            if isinstance(parse(value, key), int | float):
                return f"; write it without quotes: {_printable(value)}"
    return ""


def _known_names(path: list[str]) -> list[str]:
    """The names of the settings in the section at a path."""
    if not path:
        return list(Settings.model_fields)
    if len(path) > 1:
        return []
    return list(fields_of_section(path[0]))


def _unknown(section: str, name: str, known: list[str], all_values: Mapping[str, Any]) -> str:
    prefix = f"{section}." if section else ""
    hint = advice(section, name, known, all_values)
    return f"unknown setting {_printable(prefix + name)}; {hint}"


def _printable(key: str) -> str:
    """A key without control characters, which might clear the screen of a terminal."""
    return json.dumps(key)[1:-1][:MAX_SHOWN_CHARACTERS]


def _quote(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:MAX_SHOWN_CHARACTERS]
