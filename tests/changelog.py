"""Finds changes of the generated project that CHANGELOG.md does not mention.

    python tests/changelog.py [BASE]

The files from which projects are rendered are compared with two versions: with the release that
has the version number of ``cookiecutter.json``, if its tag exists, and with the merge base of BASE
(the target branch of a pull request), if BASE is given. The exit code is 1 if an entry or a new
version number is missing.
"""

import json
import subprocess
import sys
from pathlib import Path

RENDERED = ("{{cookiecutter.project_slug}}", "hooks", "cookiecutter.json")


def find_problem(repository: Path, base: str | None = None) -> str | None:
    """Returns what is missing, in one line, or None.

    Raises:
        subprocess.CalledProcessError: if git does not know BASE.
    """
    prompts = (repository / "cookiecutter.json").read_text(encoding="utf-8")
    tag = f"v{json.loads(prompts)['_version']}"
    if _git(repository, "tag", "--list", tag):
        changed = _git(repository, "diff", "--name-only", tag, "--", *RENDERED)
        if changed:
            return (
                f"{changed[0]} differs from {tag}, which is released; increase the version number"
            )
    if base:
        start = _git(repository, "merge-base", base, "HEAD")[0]
        changed = _git(repository, "diff", "--name-only", start, "--", *RENDERED)
        log = _git(repository, "diff", "--numstat", start, "--", "CHANGELOG.md")
        added_lines = int(log[0].split()[0]) if log else 0
        if changed and not added_lines:
            return f"{changed[0]} was changed; describe the change for users in CHANGELOG.md"
    return None


def _git(repository: Path, *arguments: str) -> list[str]:
    command = ["git", "-c", "core.quotePath=false", *arguments]
    done = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


if __name__ == "__main__":
    try:
        problem = find_problem(Path.cwd(), *sys.argv[1:2])
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error.stderr.strip()}")
    sys.exit(f"error: {problem}" if problem else 0)
