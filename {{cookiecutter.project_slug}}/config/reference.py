"""Every setting with its type, default and meaning: the text of `--help`."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import get_args

from config.arguments import constructor_arguments, find_classes
from config.schema import ClassSection, Section, Settings

HIDDEN = {"title", "description", "default", "format"}  # of a JSON schema, as the help says it


def command_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose `--help` lists every setting."""
    wanted = {"-h", "--help"} & set(sys.argv)
    lines = [f"  {key}  ({kind})\n{meaning}" for key, kind, meaning in rows()] if wanted else []
    layout, text = argparse.RawDescriptionHelpFormatter, "\n".join(["settings:", *lines])
    return argparse.ArgumentParser(
        description=description, epilog=text, formatter_class=layout, allow_abbrev=False
    )


def rows(
    schema: type[Section] = Settings, prefix: str = "", owner: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Key, type and meaning of the settings of a section and of all sections in it.

    The type begins with the class or choice that has the setting, if not all have it.
    """
    kinds = schema.model_json_schema().get("properties", {})
    for name, field in schema.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        sections = [t for t in types if isinstance(t, type) and issubclass(t, Section)]
        for section in sections:
            choice = section.model_fields["name"].default if len(sections) > 1 else ""
            yield from rows(section, f"{prefix}{name}.", choice)
        if not sections:
            default = f"default {json.dumps(field.default, default=str)}"
            kind = [f"{k} {kinds[name][k]}" for k in kinds[name].keys() - HIDDEN]
            parts = [owner, *sorted(kind)[::-1], "required" if field.is_required() else default]
            meaning = textwrap.indent(textwrap.fill(field.description or "", 90), " " * 6)
            yield prefix + name, "; ".join(filter(None, parts)), meaning
    if issubclass(schema, ClassSection):
        for place in find_classes(schema.package):
            yield from rows(
                constructor_arguments(schema.package, place, schema.given), prefix, place
            )
