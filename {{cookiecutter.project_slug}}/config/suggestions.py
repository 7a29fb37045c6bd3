"""Finds the setting that a user means who has written an unknown one."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from config.classes import find_component
from config.constructors import class_settings
from config.reading import fields_of_section
from config.schema import ClassSection, Settings, section_type
from utils.errors import UserError

SYNONYMS = {  # names of other libraries
    "accumulate_grad_batches": "accumulate",
    "accumulation_steps": "accumulate",
    "batchsize": "batch_size",
    "bs": "batch_size",
    "grad_clip": "clip_norm",
    "gradient_accumulation_steps": "accumulate",
    "gradient_clip_val": "clip_norm",
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "max_grad_norm": "clip_norm",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "num_steps": "max_steps",
    "num_workers": "workers",
    "random_seed": "seed",
    "total_steps": "max_steps",
    "wd": "weight_decay",
}
MIN_SIMILARITY = 0.8  # of a name in any other section; 1 is equal
MAX_LISTED_CHARACTERS = 250  # of the names that a message lists


def advice(section: str, name: str, known: Sequence[str], values: Mapping[str, Any]) -> str:
    """The end of a message about an unknown setting: what to use instead.

    Args:
        section: the section that contains it; empty for a key without a section.
        name: its name in the section.
        known: the names of all settings in the section.
        values: the values of all settings, which name the classes whose arguments are settings.
    """
    keys = similar_keys(section, name, known, values)
    if keys:
        return f"did you mean {' or '.join(keys)}?"
    if known:
        return f"use one of {', '.join(known)[:MAX_LISTED_CHARACTERS]} (see --help)"
    return "see --help"


def similar_keys(
    section: str, name: str, known: Sequence[str], values: Mapping[str, Any]
) -> list[str]:
    """The keys that may be meant by an unknown setting; the arguments are those of `advice`.

    In this order: another word for a setting of the section, a setting of the schema in another
    section, a similar name in the section, an argument of a class in another section. The last
    one comes last because it imports torch.
    """
    prefix = f"{section}." if section else ""
    standard_name = SYNONYMS.get(name, name)
    if standard_name in known:
        return [f"{prefix}{standard_name}"]
    keys = _keys_in_schema(standard_name)
    if keys:
        return keys
    similar = difflib.get_close_matches(name, known, n=1)
    if similar:
        return [f"{prefix}{similar[0]}"]
    argument_keys = _keys_of_arguments(values)
    keys = _keys_with_name(standard_name, argument_keys)
    if keys:
        return keys
    return _keys_with_similar_names(name, [*_schema_keys(), *argument_keys])


def keys_of_option(name: str, values: Mapping[str, Any]) -> list[str]:
    """The keys of the settings that an option, such as ``epochs`` or ``trainer.epochs``, may mean.

    Args:
        name: the option, without its hyphens.
        values: the values of all settings, as in `advice`.
    """
    if name in _schema_keys():
        return [name]
    section, _, setting = name.rpartition(".")
    if section and name in _keys_of_arguments(values):
        return [name]
    known = list(Settings.model_fields)
    if section:
        known = list(fields_of_section(section))
    keys = []
    for key in similar_keys(section, setting, known, values):
        if "name" in fields_of_section(key):  # --optimizer Adam
            key = f"{key}.name"
        keys.append(key)
    return keys


def _keys_in_schema(name: str) -> list[str]:
    if name == "name":  # each class has one
        return []
    return _keys_with_name(name, _schema_keys())


def _keys_with_name(name: str, keys: Iterable[str]) -> list[str]:
    found = []
    for key in keys:
        if _last_part(key) == name:
            found.append(key)
    return found


def _schema_keys() -> list[str]:
    """All settings of the schema, such as ``seed`` and ``trainer.epochs``."""
    keys: list[str] = []
    for key, field in Settings.model_fields.items():
        section = section_type(field)
        if section is None:
            keys.append(key)
        else:
            keys += [f"{key}.{name}" for name in section.model_fields]
    return keys


def _keys_of_arguments(values: Mapping[str, Any]) -> list[str]:
    """The arguments of the classes and functions that the sections name, such as ``model.width``.

    A class that cannot be found has none: another message is about it.
    """
    keys: list[str] = []
    for key, field in Settings.model_fields.items():
        section = section_type(field)
        if section is None or not issubclass(section, ClassSection):
            continue
        name = _named_class(section, values.get(key))
        if name is None:
            continue
        try:
            component = find_component(section, name)
        except UserError:
            continue
        arguments = class_settings(component, section, name).fields
        keys += [f"{key}.{argument}" for argument in arguments]
    return keys


def _named_class(section: type[ClassSection], values: Any) -> str | None:
    """The class that a section names, or its default; None if there is none."""
    name = section.model_fields["name"].default
    if isinstance(values, dict):
        name = values.get("name", name)
    if not isinstance(name, str):
        return None
    return name


def _keys_with_similar_names(name: str, keys: Iterable[str]) -> list[str]:
    keys_by_name: dict[str, list[str]] = {}
    for key in keys:
        keys_by_name.setdefault(_last_part(key), []).append(key)
    keys_by_name.pop("name")
    similar = difflib.get_close_matches(name, keys_by_name, n=1, cutoff=MIN_SIMILARITY)
    if not similar:
        return []
    return keys_by_name[similar[0]]


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]
