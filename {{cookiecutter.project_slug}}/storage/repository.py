"""The state of the project's git repository, for the record of a run."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logger.console import log

TIME_LIMIT_SECONDS = 10.0  # a repository on a slow network disk may take minutes
MAX_REASON_CHARACTERS = 200
MAX_FILE_BYTES = 2**20  # of a changed file that a patch contains
MAX_PATCH_BYTES = 10 * 2**20  # of all these files together
MAX_LISTED_FILES = 100
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
# Whatever the user's settings of git are, `git apply` must read the patch.
PATCH_OPTIONS = (
    "--binary",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-renames",
    "--ignore-submodules=dirty",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)
LIST_FILES = ("ls-files", "--cached", "--others", "--exclude-standard", "--directory")


class GitError(Exception):
    """Why git did not answer."""


@dataclass(frozen=True)
class Code:
    """The code of a project.

    Attributes:
        description: plain data for the manifest. ``commit`` is the commit, ``dirty`` whether files
            differ from it, ``patch`` the hash of the patch, and ``left_out`` lists the changed
            files that it does not contain. What is unknown is None, with the ``reason``.
        patch: what `git apply` changes in the commit; empty if there are no changes.
    """

    description: Mapping[str, Any]
    patch: bytes = b""


def read_code(folder: Path, run: Path) -> Code:
    """The commit of a project, and its changes that are not committed.

    Files that git ignores do not count, nor do those of a run folder, which is not code.

    Args:
        folder: a folder in the repository.
        run: the run folder.
    """
    description = describe_repository(folder, run)
    if description["commit"] is None or not description["dirty"]:
        return Code(description)
    try:
        patch, left_out = _make_patch(folder, run)
    except (GitError, OSError) as error:
        log.warning("the changes of the code are not saved: %s", error)
        return Code({**description, "reason": f"there is no code.patch: {error}"})
    description["patch"] = hashlib.sha256(patch).hexdigest()
    if left_out:
        log.warning("code.patch does not contain %s, which are too large", ", ".join(left_out[:3]))
        description["left_out"] = left_out[:MAX_LISTED_FILES]
    return Code(description, patch)


def describe_repository(folder: Path, run: Path | None = None) -> dict[str, Any]:
    """The commit, and whether files differ from it; what is unknown is None, with the reason.

    Args:
        folder: a folder in the repository.
        run: a run folder, whose files do not count.
    """
    description: dict[str, Any] = {"commit": None, "dirty": None}
    if not _is_in_repository(folder):
        description["reason"] = "the project is not in a git repository"
        return description
    try:
        top = _top_folder(folder)
        # The settings of a user may hide untracked files, which a run may use all the same.
        status = ("status", "--porcelain", "--untracked-files=normal")
        changes = _run_git(top, *status, "--", *_all_files_but(run, top))
        files = _run_git(folder, *LIST_FILES)
    except GitError as error:
        log.warning("the state of the code is not recorded in the manifest: %s", error)
        description["reason"] = str(error)
        return description
    try:
        commit = _run_git(folder, "rev-parse", "-q", "--verify", "HEAD").decode().strip()
    except GitError as error:
        description["dirty"] = bool(changes)
        description["reason"] = f"there is no commit yet ({error})"
        return description
    if not files:  # as in a home folder that is a repository of a few files
        description["reason"] = "the git repository around the project ignores it"
        return description
    return {"commit": commit, "dirty": bool(changes)}


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the code differs between two descriptions; empty if it does not, or is unknown."""
    commit_before = before.get("commit")
    commit = now.get("commit")
    if commit_before is None or commit is None:
        return ""
    if commit != commit_before:
        return f"commit {commit_before[:10]} -> {commit[:10]}"
    if before.get("patch") == now.get("patch"):
        return ""
    if not now.get("dirty"):
        return f"commit {commit[:10]}, without the changes in code.patch"
    if not before.get("dirty"):
        return f"commit {commit[:10]}, with changes that are not committed"
    return f"commit {commit[:10]}, with other changes than those in code.patch"


def _make_patch(folder: Path, run: Path) -> tuple[bytes, list[str]]:
    """The patch with all changes of tracked files and with untracked files.

    Returns:
        The patch, and the names of the changed files that it does not contain: large ones, and
        repositories in this one.
    """
    top = _top_folder(folder)
    all_files = _all_files_but(run, top)
    changed = _names(_run_git(top, "diff", "HEAD", "--name-only", "-z", "--", *all_files))
    list_untracked = ("ls-files", "--others", "--exclude-standard", "-z")
    untracked = _names(_run_git(top, *list_untracked, "--", *all_files))
    contained, left_out = _select_small(top, [*changed, *untracked])
    if not contained:
        return b"", left_out
    new_files = [f":(top,literal){name}" for name in untracked if name in contained]
    excluded = [f":(top,exclude,literal){name}" for name in left_out]
    # git diff shows untracked files only if the index names them. That of the user must not
    # change, so this is done in a copy of it.
    index_name = _run_git(top, "rev-parse", "--git-path", "index").decode().rstrip("\n")
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary, "index")
        shutil.copy2(top / index_name, index)
        if new_files:
            add = ("add", "--intent-to-add", "--force", "--pathspec-from-file=-")
            _run_git(top, *add, "--pathspec-file-nul", index=index, paths=new_files)
        diff = ("diff", *PATCH_OPTIONS, "HEAD", "--", *all_files, *excluded)
        return _run_git(top, *diff, index=index), left_out


def _select_small(top: Path, names: Iterable[str]) -> tuple[set[str], list[str]]:
    """The changed files that a patch may contain, and those that are too large for it."""
    contained: set[str] = set()
    left_out: list[str] = []
    total_bytes = 0
    for name in names:
        path = top / name
        size = 0
        if path.is_file() and not path.is_symlink():
            size = path.stat().st_size
        is_repository = name.endswith("/")
        too_large = size > MAX_FILE_BYTES or total_bytes + size > MAX_PATCH_BYTES
        if is_repository or too_large:
            left_out.append(name)
        else:
            contained.add(name)
            total_bytes += size
    return contained, left_out


def _is_in_repository(folder: Path) -> bool:
    """Whether there is a repository, which git may refuse to read."""
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))


def _top_folder(folder: Path) -> Path:
    output = _run_git(folder, "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(output).rstrip("\n"))


def _all_files_but(run: Path | None, top: Path) -> list[str]:
    """Arguments of git that select all files of a repository, except for those of a run."""
    pathspecs = [":(top)"]
    if run is not None and run.resolve().is_relative_to(top.resolve()):
        inner = run.resolve().relative_to(top.resolve()).as_posix()
        if inner != ".":
            pathspecs.append(f":(top,exclude,literal){inner}")
    return pathspecs


def _names(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _run_git(
    folder: Path, *arguments: str, index: Path | None = None, paths: Iterable[str] = ()
) -> bytes:
    """The output of git.

    It goes through files: a pipe would stay open as long as a process that git has started holds
    it.

    Args:
        folder: where git runs.
        *arguments: those of git.
        index: the file of the index, if it is not that of the repository.
        paths: names for the standard input of git, with zero bytes between them.

    Raises:
        GitError: if git is missing, refuses, or takes too long.
    """
    with (
        tempfile.TemporaryFile() as names,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        names.write(b"\0".join(os.fsencode(path) for path in paths))
        names.seek(0)
        try:
            process = subprocess.Popen(
                ["git", "-C", str(folder), *arguments],
                stdin=names,
                stdout=output,
                stderr=errors,
                env=_git_environment(index),
            )
        except OSError as error:
            raise GitError(f"git cannot be started: {error.strerror or error}") from error
        exit_code = _wait_for_git(process, arguments[0])
        output.seek(0)
        errors.seek(0)
        if exit_code != 0:
            reason = " ".join(errors.read().decode(errors="replace").split())
            text = reason[:MAX_REASON_CHARACTERS] or f"exit code {exit_code}"
            raise GitError(f"git {arguments[0]}: {text}")
        return output.read()


def _git_environment(index: Path | None) -> dict[str, str]:
    """The environment variables of git, whose messages are English and which takes no locks."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    for variable in REPOSITORY_VARIABLES:
        environment.pop(variable, None)
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    return environment


def _wait_for_git(process: subprocess.Popen[bytes], command: str) -> int:
    """The exit code of git, which is killed after TIME_LIMIT_SECONDS.

    Raises:
        GitError: if it takes longer.
    """
    try:
        return process.wait(TIME_LIMIT_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may wait for a disk that does not answer
            process.wait(1)
        raise GitError(f"git {command} took more than {TIME_LIMIT_SECONDS:g} seconds") from error
