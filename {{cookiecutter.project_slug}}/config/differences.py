"""What is particular about the settings of a run: for the first lines of its log."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from config.constructors import is_set_by_constructor
from config.loading import settings_of_class
from config.reading import parse_overrides
from config.schema import NO_CLASS, ClassSection, Section, Settings

MAX_SHOWN_CHARACTERS = 60  # of a value


def describe_settings(
    settings: Settings, values: Mapping[str, Any], origin: str, overrides: Iterable[str]
) -> str:
    """One line: what the command line changes, and how many other settings are no defaults.

    Args:
        settings: the settings of the run.
        values: what the command line changes, such as the values in a YAML file.
        origin: what the values are called, such as the name of the file.
        overrides: the ``KEY=VALUE`` arguments of the command line.
    """
    changes: dict[str, str] = {}
    for key, value in parse_overrides(overrides):
        before = _value_at(key, values)
        if before is None:
            changes[key] = f"{key}={_shown(value)}"
        elif before != value:
            changes[key] = f"{key}={_shown(value)} (was {_shown(before)})"
    text = f"settings: {origin}"
    if changes:
        text += f" with {', '.join(changes.values())}"
    others = [key for key in keys_without_default(settings) if key not in changes]
    return f"{text}; {len(others)} other settings differ from the defaults"


def keys_without_default(settings: Settings) -> list[str]:
    """The keys of the settings that differ from the defaults of the schema and of the classes."""
    keys: list[str] = []
    for key, field in Settings.model_fields.items():
        section = getattr(settings, key)
        if isinstance(section, Section):
            keys += _keys_of_section(key, section)
        elif key != "name" and section != field.default:
            keys.append(key)
    return keys


def _keys_of_section(key: str, section: Section) -> list[str]:
    fields: dict[str, Any] = dict(type(section).model_fields)
    if isinstance(section, ClassSection) and section.name != NO_CLASS:
        fields |= settings_of_class(section).fields
    keys: list[str] = []
    for name, field in fields.items():
        if not hasattr(section, name):  # the constructor sets it
            continue
        has_default = not field.is_required() and not is_set_by_constructor(field)
        value = getattr(section, name)
        if isinstance(value, Section):
            keys += _keys_of_section(f"{key}.{name}", value)
        elif not has_default or value != field.default:
            keys.append(f"{key}.{name}")
    return keys


def _value_at(key: str, values: Mapping[str, Any]) -> Any:
    """The value of a key such as data.root; None if it is not there, or is a section."""
    value: Any = values
    for name in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    if isinstance(value, Mapping):
        return None
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        text = value
    return text[:MAX_SHOWN_CHARACTERS]
