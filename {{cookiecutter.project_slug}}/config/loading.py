"""Settings from a YAML file, the environment and ``KEY=VALUE`` arguments, checked as one."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import pydantic
from ruamel.yaml import YAML

from config.help import CLASSES, ROOT, rows, schema_with
from config.schema import Settings
from utils.errors import UserError

# The settings file that commands take where none is named.
_named = ROOT / "config/default.txt"
_content = _named.read_bytes() if _named.is_file() else _named.name.encode()
DEFAULT = _named.parent / _content.decode(errors="replace").strip()
# What may change when a run goes on (the beginnings of names); all else makes it another run.
MAY_CHANGE = (
    *("name", "device", "deterministic", "data.root", "data.workers", "data.mirrors"),
    *("model.init_from", "trainer.epochs", "trainer.max_steps", "trainer.early_stop"),
    *("trainer.compile", "trainer.precision", "trainer.non_finite", "trainer.clip_norm"),
    *("trainer.tf32", "trainer.profile", "trainer.strategy", "scheduler.", "checkpoint."),
    *("optimizer.lr", "optimizer.adamw_lr", "optimizer.weight_decay", "logger."),
)
LIMIT = 50_000  # characters of a settings file, or parts of what it means
SECTIONS: dict[str, Any] = {name: f.annotation for name, f in Settings.model_fields.items()}


def load_settings(source: Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Settings:
    """The settings of a YAML file, or of a mapping read before, changed by `overrides`.

    Args:
        source: the file, or the contents of one.
        overrides: ``section.key=value`` texts; the values are read as YAML. A new
            ``section.name`` drops what the source says of the class that it replaces.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    values = _read(source) if isinstance(source, Path) else _plain(source, "the checkpoint")
    if "DATA_ROOT" in os.environ:
        _set(values, "data.root", os.environ["DATA_ROOT"])
    for override in sorted(overrides, key=lambda text: ".name=" not in text):  # names first
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[\w.]{1,60}", key):
            raise UserError(f"{override[:60]!r} must be KEY=VALUE, as in seed=3")
        _set(values, key, _plain(text, f"the value of {key}"))
    return _validated(values)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings by their dotted names."""
    groups = [(f"{k}.", v) if isinstance(v, dict) else ("", {k: v}) for k, v in values.items()]
    return {prefix + name: value for prefix, part in groups for name, value in part.items()}


def meaning_changes(state: Mapping[str, Any], settings: Settings, fingerprint: str) -> list[str]:
    """What would make a run another one if it went on: what differs from its checkpoint `state`."""
    was, now = flatten(state["settings"]), flatten(settings.model_dump(mode="json"))
    was, now = was | {"data": state["fingerprint"]}, now | {"data": fingerprint}
    changed = [key for key in now if was.get(key, now[key]) != now[key]]  # not what is new
    return [f"{k}: {was[k]} -> {now[k]}" for k in changed if not k.startswith(MAY_CHANGE)]


def to_yaml(settings: Settings) -> str:
    """The settings as a YAML file that gives them back."""
    yaml, stream = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(settings.model_dump(mode="json"), stream)
    return stream.getvalue()


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(LIMIT + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        others = ", ".join(sorted(place.name for place in ROOT.glob("config/*.yaml")))
        hint = f"in config/ there are {others}; default.txt names the default"
        text = f"cannot read the settings file {file}: {getattr(error, 'strerror', error)}"
        raise UserError(f"{text}\n{hint}" if isinstance(error, OSError) else text) from error
    values = _plain(text, str(file))
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no settings: it must be a mapping of names to values")
    return {"name": file.stem, **values}


def _plain(source: str | Mapping[str, Any], where: str) -> Any:
    """What YAML 1.2 says (1e-3 is a number in it, `no` a word), or a mapping holds, as plain types.

    It is refused where references to references would make it endless.
    """
    try:
        if len(source) > LIMIT:
            raise ValueError(f"it is too long (the limit is {LIMIT} characters)")
        values = YAML(typ="safe", pure=True).load(source) if isinstance(source, str) else source
        parts = list(islice(json.JSONEncoder(default=str).iterencode(values), LIMIT))
        if len(parts) == LIMIT:
            raise ValueError("it holds too much")
        return json.loads("".join(parts))
    except Exception as error:  # of what was made with ill intent, any
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        line = f" line {mark.line + 1}:" if mark else ""
        text = " ".join(str(problem).split())[:200]
        raise UserError(f"{where} holds no YAML for settings;{line} {text}") from error


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    section, dot, name = key.rpartition(".")
    inner = values.setdefault(section, {}) if dot else values
    if not isinstance(inner, dict):
        raise UserError(f"{key}: {section} = {str(inner)[:60]!r} holds no further settings")
    if dot and name == "name" and inner.get("name") != value:
        keep = getattr(SECTIONS.get(section), "model_fields", {})
        values[section] = inner = {k: v for k, v in inner.items() if k in keep}
    inner[name] = value


def _validated(values: dict[str, Any]) -> Settings:
    parts = [values.get(key) for key in CLASSES]
    names = [str(part.get("name")) if isinstance(part, dict) else "" for part in parts]
    try:
        # As JSON: strict about numbers, texts and booleans, and a list may fill a tuple.
        return schema_with(*names).model_validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        raise UserError("\n       ".join(map(_describe, found[:2]))) from error


def _describe(problem: Any) -> str:
    """One of pydantic's errors in a line: the setting, its value, what is allowed."""
    path = [str(part) for part in problem["loc"]] or ["settings"]
    if not isinstance(SECTIONS.get(path[0], object), type):
        del path[1:2]  # of several kinds of section, pydantic names the kind after the key
    key, value = ".".join(path)[:60], json.dumps(problem["input"], ensure_ascii=False)
    key, kind, message = json.dumps(key)[1:-1], problem["type"], problem["msg"]
    if kind in ("missing", "union_tag_not_found"):
        return f"{key}{'.name' * (kind != 'missing')} is missing"
    if kind == "extra_forbidden":
        prefix, dot, name = key.rpartition(".")
        known = {*Settings.model_fields, *(row[0] for row in rows())} - {key}
        names = [k.removeprefix(prefix + dot) for k in known if k.startswith(prefix + dot)]
        near = [f"did you mean {prefix}{dot}{n}?" for n in difflib.get_close_matches(name, names)]
        return f"unknown setting {key}; {(near or ['see --help'])[0]}"
    if kind == "union_tag_invalid":
        key, value = f"{key}.name", repr(problem["ctx"]["tag"])
        message = f"should be one of {problem['ctx']['expected_tags']}"
    return f"{key} = {value[:60]}: {message.removeprefix('Input ').replace('array', 'list [a, b]')}"
