"""What a sweep consists of: from the command line, a YAML file, or its own folder."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field
from ruamel.yaml import YAML

from config.loading import flatten
from config.reading import DEFAULT, parse_overrides, read_file
from config.schema import Count, Positive, Section
from experiments.ranges import quote
from experiments.runs import PLAN_FILE
from experiments.search_space import SearchSpace, make_search_space
from storage.run_folder import RUNS
from utils.errors import UserError
from utils.files import replace_file

SWEEP_FILES = Path("config/sweeps")
TRIAL_SETTINGS_FILE = "config.yaml"
# The user and the password of a URL, as SQLAlchemy reads them; a password may contain : and /.
PASSWORD = re.compile(r"^([\w+]+://[^:/]*):.*@")
HIDDEN_PASSWORD = r"\1:***@"
MAX_NAME_BYTES = 200  # of a folder; file systems allow 255
MAX_DEFAULT_NAME_CHARACTERS = 60
MAX_SHOWN_CHARACTERS = 60  # of a key or a value that a message quotes
MAX_SHOWN_DIFFERENCES = 3


def _check_name(name: str) -> str:
    is_hidden = name == "" or name.startswith(".")  # also the folders . and ..
    is_path = "/" in name or "\\" in name
    if is_hidden or is_path or not name.isprintable():
        raise ValueError("use the name of one folder that does not begin with a dot")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"use at most {MAX_NAME_BYTES} bytes")
    return name


class SweepOptions(Section):
    """The options of a sweep, from the command line or from a sweep file."""

    name: Annotated[str, AfterValidator(_check_name)] | None = None
    """Folder in runs/; default: sweep_ and the searched settings."""
    config: str | None = None
    """Settings file of the trials."""
    method: Literal["grid", "random", "tpe"] | None = None
    """How the values of a trial are chosen."""
    trials: Count | None = None
    """Number of trials."""
    minutes: Positive | None = None
    """Time after which this command stops all trials, with their state saved."""
    jobs: Count = 1
    """Runs at the same time."""
    processes: Count = 1
    """Training processes of each run, started by torchrun."""
    halving: Annotated[int, Field(ge=2)] | None = None
    """Successive halving: the best 1/N of the trials train on after each rung."""
    storage: str | None = None
    """URL of a database for the study; default: journal.log in the folder of the sweep."""
    max_failures: Count = 5
    """Number of trials that fail in a row after which the sweep stops."""
    sampler_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed of the values that are chosen."""


def hide_password(url: str | None) -> str | None:
    """The URL of a database without its password."""
    if url is None:
        return None
    return PASSWORD.sub(HIDDEN_PASSWORD, url)


# What must not change when a sweep continues, and what may.
FIXED_OPTIONS = ("method", "halving", "storage", "sampler_seed")
CHANGEABLE_OPTIONS = ("trials", "minutes", "jobs", "processes", "max_failures")


@dataclass(frozen=True)
class SweepPlan:
    """A sweep.

    Attributes:
        folder: the folder of the sweep, ``runs/<name>``.
        config: the settings file that the user has named.
        settings: its content when the sweep was started.
        values: the value or the range of each setting, as they were written.
        space: the search space, which is made from them.
        options: the options, with a name and a method.
    """

    folder: Path
    config: Path
    settings: Mapping[str, Any]
    values: Mapping[str, Any]
    space: SearchSpace
    options: SweepOptions

    @property
    def identity(self) -> str:
        """A hash of what decides what the trials are, for workers without a common folder."""
        facts = [
            repr(list(self.space.ranges.items())),  # a grid depends on their order
            repr(sorted(self.space.repetitions.items())),
            json.dumps([self.space.fixed, self.settings], sort_keys=True),
            repr([self.options.method, self.options.halving, self.options.sampler_seed]),
        ]
        if self.options.halving is not None:  # what remains after a rung depends on the number
            facts.append(repr(self.trial_count))
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def is_started(self) -> bool:
        """Whether its folder contains a sweep."""
        return (self.folder / PLAN_FILE).exists()

    @property
    def trial_settings_file(self) -> Path:
        """The copy of the settings from which all trials start.

        The user may edit the original while the sweep runs; the trials must stay comparable.
        """
        return self.folder / TRIAL_SETTINGS_FILE

    def trial_folder(self, index: int) -> Path:
        """The folder of a trial: a run folder, or one that contains those of its repetitions."""
        return self.folder / f"{index:04d}"

    @property
    def output_folder(self) -> Path:
        """The folder of what the trials print."""
        return self.folder / "output"

    @property
    def trial_count(self) -> int | None:
        """The number of trials; None if only the time is limited."""
        size = self.space.grid_size()
        count = self.options.trials
        if self.options.method != "grid" or size is None:
            return count
        if count is None:
            return size
        return min(count, size)


def make_plan(given: Mapping[str, Any], overrides: Iterable[str]) -> SweepPlan:
    """Makes a plan from the arguments of the command line.

    A name alone stands for the sweep of that name, or for ``config/sweeps/<name>.yaml``.

    Args:
        given: the options that the command line contains, by name.
        overrides: the ``KEY=VALUE`` arguments.

    Raises:
        UserError: if an option or a range is invalid.
    """
    written = _merge_with_file(given, list(overrides))
    space = make_search_space(written.ranges)
    options = _check_options(written.options)
    _check_password(options.storage)
    name = options.name or _default_name(space)
    folder = RUNS / name
    if options.method is None and (folder / PLAN_FILE).exists():
        # Other --trials than before must not select another method.
        options = options.model_copy(update={"method": load_plan(folder).options.method})
    method = _choose_method(space, options)
    settings_file = Path(options.config or DEFAULT)
    settings = written.settings
    if settings is None:
        settings = read_file(settings_file)
    return SweepPlan(
        folder=folder,
        config=settings_file,
        settings=settings,
        values=written.ranges,
        space=space,
        options=options.model_copy(update={"name": name, "method": method}),
    )


def _merge_with_file(given: Mapping[str, Any], overrides: list[str]) -> "SweepFile":
    """The ranges and the options of the command line, on top of those of its sweep file."""
    options = dict(given)
    config: Path | None = options.pop("config", None)
    if config is None and "name" in options and not overrides:
        config = _find_sweep(options["name"])
    ranges = dict(parse_overrides(overrides))
    if config is None:
        return SweepFile(ranges, options, settings=None)
    if not _is_sweep_file(config):
        return SweepFile(ranges, {"config": str(config), **options}, settings=None)
    file = _read_sweep_file(config)
    return SweepFile({**file.ranges, **ranges}, {**file.options, **options}, file.settings)


def _find_sweep(name: str) -> Path:
    """The file that describes the sweep of a name."""
    files = (RUNS / name / PLAN_FILE, SWEEP_FILES / f"{name}.yaml")
    for file in files:
        if file.is_file():
            return file
    paths = " nor ".join(map(str, files))
    raise UserError(f"--name {name}: there is neither {paths}; add ranges as KEY=RANGE")


def _default_name(space: SearchSpace) -> str:
    names = [key.rpartition(".")[2] for key in [*space.ranges, *space.repetitions]]
    return "_".join(["sweep", *names])[:MAX_DEFAULT_NAME_CHARACTERS]


def _check_options(options: Mapping[str, Any]) -> SweepOptions:
    try:
        return SweepOptions.model_validate_json(json.dumps(options))
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        message = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
        option = f"--{key.replace('_', '-')}"
        raise UserError(f"{option} = {quote(problem['input'])}: {message}") from error


def _check_password(url: str | None) -> None:
    """Raises a UserError if the password of a database is missing, as it is not saved."""
    if url is not None and ":***@" in url:
        raise UserError(
            f"--storage = {url}: the password is not saved with the sweep; repeat --storage with "
            "the password in the place of ***"
        )


def _choose_method(space: SearchSpace, options: SweepOptions) -> str:
    """The method; by default a grid if there are enough trials for all combinations, else TPE."""
    size = space.grid_size()
    method = options.method
    if method == "grid" and size is None:
        raise UserError("--method grid needs lists, such as [a, b, c] or range(3), and no ranges")
    if method is None:
        method = "tpe"
        if size is not None and (options.trials is None or size <= options.trials):
            method = "grid"
    if method != "grid" and options.trials is None and options.minutes is None:
        raise UserError(f"a sweep by {method} has no end; add --trials N, --minutes N, or both")
    if options.halving is not None and method == "tpe":
        raise UserError("--halving needs --method random or grid: TPE compares complete trials")
    if options.halving is not None and method == "random" and options.trials is None:
        raise UserError("--halving compares all trials; add --trials N")
    return method


# Sweep files


@dataclass(frozen=True)
class SweepFile:
    """What the command line and a YAML file say about a sweep.

    Attributes:
        ranges: the value or the range of each setting.
        options: the options of sweep.py.
        settings: the settings of the trials; None unless a started sweep has saved them.
    """

    ranges: dict[str, Any]
    options: dict[str, Any]
    settings: dict[str, Any] | None


def _is_sweep_file(file: Path) -> bool:
    """Whether a file describes a sweep; any other file contains the settings of the trials."""
    return file.parent.name == SWEEP_FILES.name or "ranges" in read_file(file)


def _read_sweep_file(file: Path) -> SweepFile:
    options = read_file(file)
    ranges = options.pop("ranges", {})
    settings: dict[str, Any] | None = None
    if file.name == PLAN_FILE and isinstance(options.get("settings"), dict):
        settings = options.pop("settings")
        options["name"] = file.parent.name  # whatever it was called when it was saved
    elif isinstance(options.get("config"), str):
        options["config"] = str(file.parent / options["config"])
    if not isinstance(ranges, dict):
        raise UserError(f"{file}: ranges must contain one KEY: RANGE per line")
    known = [*SweepOptions.model_fields, "ranges"]
    for key in options:
        if key not in known:
            shown = key[:MAX_SHOWN_CHARACTERS]
            raise UserError(f"{file}: unknown key {shown}; {_advice(key, known)}")
    return SweepFile(_flatten_ranges(ranges), options, settings)


def _flatten_ranges(ranges: Mapping[str, Any]) -> dict[str, Any]:
    """Ranges by ``section.key``, which may also be written as ``section: {key: ...}``."""
    flat: dict[str, Any] = {}
    for key, value in ranges.items():
        if isinstance(value, dict) and "." not in key:
            for name, inner in value.items():
                flat[f"{key}.{name}"] = inner
        else:
            flat[key] = value
    return flat


def _advice(key: str, known: list[str]) -> str:
    if "." in key:
        return "settings and their ranges are below the key ranges"
    similar = difflib.get_close_matches(key, known, n=1)
    if similar:
        return f"did you mean {similar[0]}?"
    return f"use one of {', '.join(known)}"


# The folder of a sweep


def save_plan(plan: SweepPlan) -> None:
    """Writes the plan into the folder of the sweep, which must exist.

    Raises:
        OSError: if it cannot be written.
    """
    storage = hide_password(plan.options.storage)
    options = plan.options.model_copy(update={"storage": storage})
    content = {
        **options.model_dump(exclude_none=True, exclude={"name"}),
        "config": str(plan.config),
        "ranges": dict(plan.values),
        "settings": dict(plan.settings),
    }
    _write_yaml(plan.folder / PLAN_FILE, content)


def save_trial_settings(plan: SweepPlan) -> None:
    """Writes the settings file of the trials into the folder of the sweep.

    Raises:
        OSError: if it cannot be written.
    """
    _write_yaml(plan.trial_settings_file, plan.settings)


def _write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(dict(content), stream)
    replace_file(file, stream.getvalue().encode())


def load_plan(folder: Path) -> SweepPlan:
    """Reads the plan in the folder of a sweep.

    Raises:
        UserError: if it cannot be read.
    """
    file = _read_sweep_file(folder / PLAN_FILE)
    options = _check_options(file.options)
    config = Path(options.config or DEFAULT)
    space = make_search_space(file.ranges)
    return SweepPlan(folder, config, file.settings or {}, file.ranges, space, options)


def continue_plan(plan: SweepPlan) -> SweepPlan:
    """The saved plan of `plan.folder`, with the options and the settings file of `plan`.

    A grid depends on the order of the ranges, which remains that of the sweep.

    Raises:
        UserError: if they differ in anything that decides what a trial is, naming the difference.
    """
    saved = load_plan(plan.folder)
    differences = _differences(saved, plan)
    if differences:
        name = plan.folder.name
        raise UserError(
            f"{plan.folder} contains another sweep: "
            f"{'; '.join(differences[:MAX_SHOWN_DIFFERENCES])}\n"
            f"       use another --name; --name {name} alone continues that sweep as it was"
        )
    return replace(saved, config=plan.config, options=plan.options)


def changed_ranges(plan: SweepPlan) -> tuple[Path, list[str]]:
    """The sweep file with the name of a started sweep, and the keys whose range in it is another.

    The file may have been edited, or the command line may have replaced ranges at the start.
    """
    file = SWEEP_FILES / f"{plan.folder.name}.yaml"
    if not file.is_file():
        return file, []
    saved = load_plan(plan.folder).space.axes()
    try:
        written = make_search_space(_read_sweep_file(file).ranges).axes()
    except UserError:  # the sweep continues without this file
        return file, []
    return file, [key for key, axis in written.items() if saved.get(key) != axis]


def _differences(before: SweepPlan, now: SweepPlan) -> list[str]:
    """The options, ranges and settings that differ, as ``key: old -> new``."""
    differences: list[str] = []
    fixed = list(FIXED_OPTIONS)
    if before.options.halving is not None:  # what remains after a rung depends on the number
        fixed.append("trials")
    for name in fixed:
        old = getattr(before.options, name)
        new = getattr(now.options, name)
        if name == "storage":
            old = hide_password(old)
            new = hide_password(new)
        if old != new:
            differences.append(_describe_change(name, old, new))
    # The same range can be written in several ways, such as 0.1 and 1e-1.
    old_ranges = before.space.axes()
    new_ranges = now.space.axes()
    for key in {**old_ranges, **new_ranges}:
        if old_ranges.get(key) != new_ranges.get(key):
            change = _describe_change(key, before.values.get(key), now.values.get(key))
            differences.append(change)
    old_settings = flatten(before.settings)
    new_settings = flatten(now.settings)
    for key in {**old_settings, **new_settings}:
        if old_settings.get(key) != new_settings.get(key):
            change = _describe_change(key, old_settings.get(key), new_settings.get(key))
            differences.append(change)
    return differences


def _describe_change(key: str, old: Any, new: Any) -> str:
    return f"{key}: {_show(old)} -> {_show(new)}"


def _show(value: Any) -> str:
    if value is None:
        return "none"
    return str(value)[:MAX_SHOWN_CHARACTERS]
