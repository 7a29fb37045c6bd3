"""The state of the project's git repository, for the record of a run."""

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from logger.console import log

TIME_LIMIT_SECONDS = 10.0  # a repository on a slow network disk may take minutes
MAX_REASON_CHARACTERS = 200
# Variables that name another repository than that of the project; git sets them for its hooks.
REPOSITORY_VARIABLES = (
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)

LIST_FILES = ("ls-files", "--cached", "--others", "--exclude-standard", "--directory")


class GitError(Exception):
    """Why git did not answer."""


def describe_repository(folder: Path) -> dict[str, Any]:
    """The commit, and whether files differ from it; what is unknown is None, with the reason.

    Args:
        folder: a folder in the repository.
    """
    description: dict[str, Any] = {"commit": None, "dirty": None}
    if not _is_in_repository(folder):
        description["reason"] = "the project is not in a git repository"
        return description
    try:
        # The settings of a user may hide untracked files, which a run may use all the same.
        changes = _run_git(folder, "status", "--porcelain", "--untracked-files=normal")
        files = _run_git(folder, *LIST_FILES)
    except GitError as error:
        log.warning("the state of the code is not recorded in the manifest: %s", error)
        description["reason"] = str(error)
        return description
    try:
        commit = _run_git(folder, "rev-parse", "-q", "--verify", "HEAD")
    except GitError as error:
        description["dirty"] = bool(changes)
        description["reason"] = f"there is no commit yet ({error})"
        return description
    if not files:  # as in a home folder that is a repository of a few files
        description["reason"] = "the git repository around the project ignores it"
        return description
    return {"commit": commit, "dirty": bool(changes)}


def _is_in_repository(folder: Path) -> bool:
    """Whether there is a repository, which git may refuse to read."""
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))


def _run_git(folder: Path, *arguments: str) -> str:
    """The output of git.

    File names in it may have any encoding. It goes through files: a pipe would stay open as long
    as a process that git has started holds it.

    Raises:
        GitError: if git is missing, refuses, or takes too long.
    """
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    for variable in REPOSITORY_VARIABLES:
        environment.pop(variable, None)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                ["git", "-C", str(folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment,
            )
        except OSError as error:
            raise GitError(f"git cannot be started: {error.strerror or error}") from error
        try:
            exit_code = process.wait(TIME_LIMIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # it may wait for a disk that does not answer
                process.wait(1)
            raise GitError(
                f"git {arguments[0]} took more than {TIME_LIMIT_SECONDS:g} seconds"
            ) from error
        output.seek(0)
        errors.seek(0)
        if exit_code != 0:
            reason = " ".join(errors.read().decode(errors="replace").split())
            text = reason[:MAX_REASON_CHARACTERS] or f"exit code {exit_code}"
            raise GitError(f"git {arguments[0]}: {text}")
        return output.read().decode(errors="replace").strip()
