"""The argument parser of the commands, whose `--help` lists all settings."""

import argparse
import dataclasses
import difflib
import json
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from config.classes import list_classes, list_functions, list_names
from config.constructors import class_settings, is_set_by_constructor
from config.reading import DEFAULT, read_file
from config.schema import ClassSection, Section, Settings, section_type
from config.suggestions import keys_of_option
from utils.command import CommandParser
from utils.errors import UserError
from utils.paths import path_argument

MAX_SHOWN_OPTIONS = 2
MIN_OPTION_SIMILARITY = 0.8  # of a typo in an option; --lr is not --help
MAX_SHOWN_CHARACTERS = 60  # of an option or a value that a message quotes
LINE_WIDTH = 90  # characters of a line of text, without its indentation
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class SettingsParser(CommandParser):
    """A parser that lists the settings below its own help.

    They are read only then: to list the arguments of classes is to import all their files.
    """

    def format_help(self) -> str:
        return f"{super().format_help()}\n{settings_help()}"

    def add_settings(self, example: str) -> None:
        """Adds ``--config FILE``, the settings file of the project by default, and KEY=VALUE.

        Args:
            example: a setting for the help, such as ``seed=3``.
        """
        self.add_argument(
            "--config",
            type=path_argument,
            default=DEFAULT,
            metavar="FILE",
            help=f"settings file; default: config/{DEFAULT.name}",
        )
        self.add_argument(
            "settings", nargs="*", metavar="KEY=VALUE", help=f"a setting, such as {example}"
        )

    def parse_command_line(self) -> argparse.Namespace:
        """The arguments of the command line; options and settings come in any order.

        Raises:
            UserError: if there is an unknown option, such as ``--epochs 3``, with the setting
                ``trainer.epochs=3`` that it stands for.
        """
        given = sys.argv[1:]
        arguments, unknown = self.parse_known_intermixed_args(given)
        if unknown:
            values = _values_of_file(arguments)
            problems = []
            for option, value in _unknown_options(unknown, given):
                problems.append(self._explain_option(option, value, values))
            raise UserError("\n       ".join(problems[:MAX_SHOWN_OPTIONS]))
        return arguments

    def _explain_option(self, option: str, value: str, values: Mapping[str, Any]) -> str:
        message = f"unknown option {option}"
        own_options = difflib.get_close_matches(
            option, self._option_string_actions, n=1, cutoff=MIN_OPTION_SIMILARITY
        )
        if own_options:
            return f"{message}; did you mean {own_options[0]}?"
        keys = keys_of_option(option.lstrip("-").replace("-", "_"), values)
        if not keys:
            return f"{message}; see --help"
        settings = " or ".join(shlex.quote(f"{key}={value}") for key in keys)
        return f"{message}; settings are written as KEY=VALUE, use {settings}"


def _values_of_file(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The values in the settings file, which name the classes whose arguments are settings."""
    starts_from_file = hasattr(arguments, "config") and not getattr(arguments, "resume", None)
    if not starts_from_file:
        return {}
    return read_file(arguments.config or DEFAULT)


def _unknown_options(unknown: Sequence[str], given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each unknown option with its value; ``VALUE`` if it has none."""
    for text in unknown:
        if not re.match("--?[^\\W\\d]", text):
            continue  # a negative number, which is a value
        option, equals, value = text.partition("=")
        if not equals:
            value = "VALUE"
            following = given[given.index(text) + 1 :]
            if following and not re.match(r"--|[\w.]+=", following[0]):
                value = following[0]
        yield option[:MAX_SHOWN_CHARACTERS], value[:MAX_SHOWN_CHARACTERS]


@dataclass(frozen=True)
class Row:
    """One setting in the help.

    Attributes:
        key: the name, such as model.width.
        facts: the classes or functions that have it, if not all do; type, range and default.
        meaning: the description.
    """

    key: str
    facts: str
    meaning: str


def settings_help() -> str:
    """The list of all settings, and of the files whose classes are not listed."""
    lines = ["settings:"]
    for row in list_settings():
        lines.append(f"  {row.key}  ({row.facts})")
        if row.meaning:
            lines.append(_indented(row.meaning))
    for field in Settings.model_fields.values():
        section = section_type(field)
        if section is not None and issubclass(section, ClassSection):
            lines += list_classes(section.package, section.base).failures.values()
    return "\n".join(lines) + "\n"


def list_settings() -> Iterator[Row]:
    """All settings in the order of the schema; a section is followed by its classes' settings."""
    for name, field in Settings.model_fields.items():
        section = section_type(field)
        if section is None:
            properties = Settings.model_json_schema()["properties"]
            yield _row(name, field, properties[name], {})
        elif issubclass(section, ClassSection):
            yield from _rows_of_class_section(section, name)
        else:
            yield from _rows(section, name)


def _rows(section: type[Section], prefix: str) -> Iterator[Row]:
    schema = section.model_json_schema()
    for name, field in section.model_fields.items():
        yield _row(f"{prefix}.{name}", field, schema["properties"][name], schema)


def _rows_of_class_section(section: type[ClassSection], prefix: str) -> Iterator[Row]:
    """The settings of a section, and the arguments of all that it can name in the project."""
    components = {**list_functions(section), **list_classes(section.package, section.base).classes}
    names = f"\nAvailable: {', '.join(list_names(section))}"
    for row in _rows(section, prefix):
        inner_section = section_type(section.model_fields[row.key.removeprefix(f"{prefix}.")])
        if row.key == f"{prefix}.name":
            row = dataclasses.replace(row, meaning=row.meaning + names)
        yield row
        if inner_section is not None and issubclass(inner_section, ClassSection):
            yield from _rows_of_class_section(inner_section, row.key)
    owners_by_row: dict[Row, list[str]] = {}  # several components may have the same argument
    for name, component in components.items():
        settings = class_settings(component, section, name)
        schema = settings.model.model_json_schema()
        for argument, field in settings.fields.items():
            row = _row(f"{prefix}.{argument}", field, schema["properties"][argument], schema)
            owners_by_row.setdefault(row, []).append(name)
    for row, owners in owners_by_row.items():
        yield dataclasses.replace(row, facts=f"{', '.join(owners)}; {row.facts}")


def _row(key: str, field: FieldInfo, schema: dict[str, Any], root: dict[str, Any]) -> Row:
    facts = [_type_in_words(schema, root.get("$defs", {})), _default_in_words(field)]
    return Row(key, "; ".join(facts), field.description or "")


def _default_in_words(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if is_set_by_constructor(field):
        return "default set by the class"
    return f"default {json.dumps(field.default, default=str)}"


def _type_in_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in words, such as ``number > 0 or null``."""
    if "anyOf" in schema:
        alternatives = [_type_in_words(part, definitions) for part in schema["anyOf"]]
        return " or ".join(alternatives)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _type_in_words(definitions[name], definitions)
    if "properties" in schema:
        return "mapping with " + ", ".join(schema["properties"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return _list_in_words(schema, definitions)
    words = [schema.get("type", "any")]
    for keyword, sign in BOUNDS.items():
        if keyword in schema:
            words.append(f"{sign} {schema[keyword]}")
    return " ".join(words)


def _list_in_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        parts = [_type_in_words(part, definitions) for part in schema["prefixItems"]]
        return f"list [{', '.join(parts)}]"
    if "items" in schema:
        return f"list of {_type_in_words(schema['items'], definitions)}"
    return "list"


def _indented(text: str) -> str:
    lines: list[str] = []
    for paragraph in text.splitlines():
        lines += textwrap.wrap(paragraph, LINE_WIDTH)
    return textwrap.indent("\n".join(lines), " " * 6)
