"""What a sweep consists of: from the command line, a YAML file, or its own folder."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from ruamel.yaml import YAML

from config.loading import flatten
from config.reading import DEFAULT, parse, parse_overrides, read_file
from config.schema import Count, Positive, Section
from experiments.search_space import SearchSpace, make_search_space
from storage.run_folder import RUNS
from utils.errors import UserError
from utils.files import replace_file

SWEEP_FILES = Path("config/sweeps")
PLAN_FILE = "sweep.yaml"
MAX_NAME_CHARACTERS = 60


class SweepOptions(Section):
    """The options of a sweep, from the command line or from a sweep file."""

    name: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")] | None = None
    """Folder in runs/; default: the name of the sweep file, or sweep_ and the settings."""
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


# What must not change when a sweep continues.
FIXED_OPTIONS = ("method", "halving", "storage", "sampler_seed")


@dataclass(frozen=True)
class SweepPlan:
    """A sweep.

    Attributes:
        folder: the folder of the sweep, ``runs/<name>``.
        config: the settings file of the trials.
        values: the value or the range of each setting, as they were written.
        space: the search space, which is made from them.
        options: the options, with a name and a method.
    """

    folder: Path
    config: Path
    values: Mapping[str, Any]
    space: SearchSpace
    options: SweepOptions

    @property
    def trial_count(self) -> int | None:
        """The number of trials; None if only the time is limited."""
        grid = self.space.grid()
        count = self.options.trials
        if self.options.method != "grid" or grid is None:
            return count
        if count is None:
            return len(grid)
        return min(count, len(grid))


def make_plan(given: Mapping[str, Any], overrides: Iterable[str]) -> SweepPlan:
    """Makes a plan from the arguments of the command line.

    A name alone stands for the sweep of that name, or for ``config/sweeps/<name>.yaml``.

    Args:
        given: the options that the command line contains, by name.
        overrides: the ``KEY=VALUE`` arguments.

    Raises:
        UserError: if an option or a range is invalid.
    """
    config: Path | None = given.get("config")
    overrides = list(overrides)
    if config is None and "name" in given and not overrides:
        config = _find_sweep(given["name"])
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if config is not None and _is_sweep_file(config):
        values, options = _read_sweep_file(config)
        config = None
        if "config" in options:
            config = Path(options["config"])
    options |= {key: value for key, value in given.items() if key != "config"}
    values |= dict(parse_overrides(overrides))
    space = make_search_space(values)
    options.setdefault("name", _default_name(space))
    checked = _check_options(options)
    checked = checked.model_copy(update={"method": _choose_method(space, checked)})
    folder = RUNS / str(checked.name)
    return SweepPlan(folder, config or DEFAULT, values, space, checked)


def _find_sweep(name: str) -> Path:
    """The file that describes the sweep of a name."""
    files = (RUNS / name / PLAN_FILE, SWEEP_FILES / f"{name}.yaml")
    for file in files:
        if file.is_file():
            return file
    paths = " nor ".join(map(str, files))
    raise UserError(f"--name {name}: there is neither {paths}; add ranges as KEY=RANGE")


def _is_sweep_file(file: Path) -> bool:
    """Whether a file describes a sweep; any other file contains the settings of the trials."""
    return file.parent.name == SWEEP_FILES.name or "ranges" in read_file(file)


def _read_sweep_file(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ranges and the options in a sweep file."""
    options = read_file(file)
    ranges = options.pop("ranges", {})
    options.pop("settings", None)  # of the file in the folder of a sweep
    if not isinstance(ranges, dict):
        raise UserError(f"{file}: ranges must contain one KEY: RANGE per line")
    known = [*SweepOptions.model_fields, "ranges"]
    for key in options:
        if key not in known:
            raise UserError(f"{file}: unknown key {key[:60]}; {_advice(key, known)}")
    if file.name == PLAN_FILE:
        options["name"] = file.parent.name
    elif isinstance(options.get("config"), str):
        options["config"] = str(file.parent / options["config"])
    values: dict[str, Any] = {}
    for key, value in ranges.items():
        if isinstance(value, dict) and "." not in key:  # optimizer: {lr: ...}
            values |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            values[key] = value
    return values, options


def _advice(key: str, known: list[str]) -> str:
    if "." in key:
        return "settings and their ranges are below the key ranges"
    similar = difflib.get_close_matches(key, known, n=1)
    if similar:
        return f"did you mean {similar[0]}?"
    return f"use one of {', '.join(known)}"


def _choose_method(space: SearchSpace, options: SweepOptions) -> str:
    """The method; by default a grid if there are enough trials for all combinations, else TPE."""
    grid = space.grid()
    method = options.method
    if method == "grid" and grid is None:
        raise UserError("--method grid needs lists, such as [a, b, c] or range(3), and no ranges")
    if method is None:
        method = "tpe"
        if grid is not None and (options.trials is None or len(grid) <= options.trials):
            method = "grid"
    if method != "grid" and options.trials is None and options.minutes is None:
        raise UserError(f"a sweep by {method} has no end; add --trials N, --minutes N, or both")
    if options.halving is not None and method == "tpe":
        raise UserError("--halving needs --method random or grid: TPE compares complete trials")
    if options.halving is not None and method == "random" and options.trials is None:
        raise UserError("--halving compares all trials; add --trials N")
    return method


def _default_name(space: SearchSpace) -> str:
    names = [key.rpartition(".")[2] for key in [*space.ranges, *space.repetitions]]
    return "_".join(["sweep", *names])[:MAX_NAME_CHARACTERS]


def _check_options(options: Mapping[str, Any]) -> SweepOptions:
    try:
        return SweepOptions.model_validate_json(json.dumps(options))
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        message = problem["msg"].removeprefix("Input ")
        option = f"--{key.replace('_', '-')}"
        raise UserError(f"{option} = {json.dumps(problem['input'])}: {message}") from error


# The folder of a sweep


def save_plan(plan: SweepPlan) -> None:
    """Writes the plan into the folder of the sweep, which must exist.

    Raises:
        OSError: if it cannot be written.
    """
    content = {
        **plan.options.model_dump(exclude_none=True, exclude={"name"}),
        "config": str(plan.config),
        "ranges": dict(plan.values),
        "settings": read_file(plan.config),
    }
    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(content, stream)
    replace_file(plan.folder / PLAN_FILE, stream.getvalue().encode())


def check_same_plan(plan: SweepPlan) -> SweepPlan:
    """Compares a plan with that of the sweep that its folder contains.

    Returns:
        The plan with the ranges in the order of the sweep, on which a grid depends.

    Raises:
        UserError: if they differ in anything that decides what a trial is, naming the difference.
    """
    file = plan.folder / PLAN_FILE
    values, options = _read_sweep_file(file)
    before = {key: options.get(key) for key in FIXED_OPTIONS}
    now = {key: getattr(plan.options, key) for key in FIXED_OPTIONS}
    before["sampler_seed"] = options.get("sampler_seed", 0)
    differences = _differences(before, now)
    space = make_search_space(values)
    differences += _differences(_parsed(space), _parsed(plan.space), values, plan.values)
    saved_settings = flatten(parse(file.read_text(encoding="utf-8"), str(file))["settings"])
    differences += _differences(saved_settings, flatten(read_file(plan.config)))
    if differences:
        raise UserError(
            f"{plan.folder} contains another sweep: {'; '.join(differences[:3])}\n"
            "       use another --name, or repeat the command of that sweep to continue it"
        )
    return SweepPlan(plan.folder, plan.config, values, space, plan.options)


def _parsed(space: SearchSpace) -> dict[str, Any]:
    return {**space.ranges, **space.repetitions, **space.fixed}


def _differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    shown_before: Mapping[str, Any] | None = None,
    shown_now: Mapping[str, Any] | None = None,
) -> list[str]:
    """The keys with different values, as ``key: old -> new``.

    Args:
        before: the old values.
        now: the new values.
        shown_before: what is shown of the old values, if it is not the values themselves.
        shown_now: the same for the new values.
    """
    shown_before = shown_before or before
    shown_now = shown_now or now
    differences: list[str] = []
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            differences.append(f"{key}: {_show(shown_before, key)} -> {_show(shown_now, key)}")
    return differences


def _show(values: Mapping[str, Any], key: str) -> str:
    if values.get(key) is None:
        return "none"
    return str(values[key])[:MAX_NAME_CHARACTERS]
