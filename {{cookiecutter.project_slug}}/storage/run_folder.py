"""The folder of one run: where everything that it leaves behind has its place."""

import json
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from utils.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent


def plan_run(name: str, path: Path | None = None) -> Path:
    """The folder of a new run: `path`, or ``runs/<name>/<date-time>``, numbered if that is taken.

    Raises:
        UserError: if `path` holds something already.
    """
    if path is not None and path.exists() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path} is not empty; name another --run-dir, or --resume it")
    wanted = Path("runs", name, f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    others = (wanted.with_name(f"{wanted.name}-{number}") for number in range(2, 1000))
    return path or next(folder for folder in (wanted, *others) if not folder.exists())


def create_run(folder: Path, settings: str, manifest: Mapping[str, Any]) -> None:
    """Makes the folder with ``settings.yaml`` and ``manifest.json``, or notes a resumption."""
    file = folder / "manifest.json"
    if file.exists():
        known = json.loads(file.read_text(encoding="utf-8"))
        manifest = {**known, "resumed": [*known.get("resumed", []), manifest]}
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "settings.yaml").write_text(settings, encoding="utf-8")
        file.write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write in the run folder {folder}: {error.strerror}") from error


def find_last_run(root: Path) -> Path:
    """The run below `root` that saved a checkpoint most recently."""
    files = sorted(root.rglob("checkpoints/last.pt"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UserError(f"there is no run with a checkpoint in {root}/ to resume")
    return files[-1].parent.parent


def find_checkpoint(run: Path, name: str = "best") -> Path:
    """The checkpoint of a run folder (`name`, or else the last), or the file that `run` is.

    Raises:
        UserError: if there is none.
    """
    for file in (run, run / "checkpoints" / f"{name}.pt", run / "checkpoints" / "last.pt"):
        if file.is_file():
            return file
    raise UserError(f"{run} is neither a checkpoint nor a run folder that holds one")


def folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in, or else the checkpoint's own folder."""
    inside = (checkpoint.parent.parent / "manifest.json").is_file()
    return checkpoint.parent.parent if inside else checkpoint.parent


def describe_origin(**facts: Any) -> dict[str, Any]:
    """What is needed to trace a run: code, command, versions, machine, and the `facts` given."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    git = ["git", "-C", str(PROJECT), "describe", "--always", "--abbrev=40", "--dirty"]
    found = subprocess.run(git, capture_output=True, text=True) if shutil.which("git") else None
    commit, _, dirty = found.stdout.strip().partition("-") if found else ("", "", "")
    return {
        "template": project["tool"]["torch-template"],
        "git": {"commit": commit or None, "dirty": bool(dirty)},
        "command": shlex.join(sys.argv),
        "versions": {name: version(name) for name in ("torch", "torchvision", "numpy")},
        "machine": f"Python {platform.python_version()}, {platform.platform()}",
        **facts,
    }
