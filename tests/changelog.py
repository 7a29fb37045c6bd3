"""Finds changes of what users get that CHANGELOG.md does not speak of.

    python tests/changelog.py [BASE]

The files that a project is made of are compared with those of the released version that
``cookiecutter.json`` names, if it has a tag; and, if BASE is given (the branch that a pull request
is for), with those where the work on BASE was left. Exit code 1 says that something is missing.
"""

import json
import subprocess
import sys
from pathlib import Path

RENDERED = ("{{cookiecutter.project_slug}}", "hooks", "cookiecutter.json")


def find_problem(repository: Path, base: str | None = None) -> str | None:
    """What is missing, in a line; None if nothing is. A wrong BASE is a `CalledProcessError`."""
    prompts = (repository / "cookiecutter.json").read_text(encoding="utf-8")
    tag = f"v{json.loads(prompts)['_version']}"
    if _git(repository, "tag", "--list", tag):
        changed = _git(repository, "diff", "--name-only", tag, "--", *RENDERED)
        if changed:
            return f"{changed[0]} is not as in {tag}, which is released: begin another version"
    if base:
        start = _git(repository, "merge-base", base, "HEAD")[0]
        changed = _git(repository, "diff", "--name-only", start, "--", *RENDERED)
        said = _git(repository, "diff", "--numstat", start, "--", "CHANGELOG.md")
        if changed and not (said and int(said[0].split()[0])):
            return f"{changed[0]} is changed: say in CHANGELOG.md what users get"
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
