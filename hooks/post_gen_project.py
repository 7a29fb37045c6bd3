"""Keeps the chosen files, begins a git repository, and says what to do next."""

import shutil
import subprocess
from pathlib import Path

SLUG = "{{ cookiecutter.project_slug }}"
LICENSE = "{{ cookiecutter.license }}"


def keep_license(project: Path, name: str) -> None:
    """Makes licenses/`name` the project's LICENSE and removes the others."""
    (project / "licenses" / name).replace(project / "LICENSE")
    shutil.rmtree(project / "licenses")


def remove_caches(project: Path) -> None:
    """Removes what tools left in the template's folder, where it is run in place."""
    for pattern in ("__pycache__", "*/__pycache__", ".*_cache"):
        for folder in project.glob(pattern):
            shutil.rmtree(folder)


def begin_repository(project: Path) -> str:
    """Makes a git repository, unless the project is in one already; returns what was done."""
    git = shutil.which("git")
    if git is None:
        return "git is not installed, so there is no repository yet."
    inside = [git, "-C", str(project), "rev-parse", "--is-inside-work-tree"]
    if subprocess.run(inside, capture_output=True).returncode == 0:
        return "It is part of the git repository around it."
    init = [git, "-c", "init.defaultBranch=main", "init", "--quiet", str(project)]
    done = subprocess.run(init, capture_output=True, text=True)
    if done.returncode != 0:
        return f"git could not make a repository: {done.stderr.strip()}"
    return "It is a git repository, with nothing committed yet."


def main() -> None:
    """Cookiecutter runs hooks in the new project's folder."""
    project = Path.cwd()
    keep_license(project, LICENSE)
    remove_caches(project)
    print(
        f"\n{SLUG} is there. {begin_repository(project)}\n\n"
        "Next, with uv:\n\n"
        f"    cd {SLUG}\n"
        "    uv run train.py\n\n"
        "or with pip:\n\n"
        f"    cd {SLUG}\n"
        "    python -m venv .venv && . .venv/bin/activate\n"
        '    pip install -e ".[dev]"\n'
        "    python train.py\n\n"
        "Without a network: add --config config/synthetic.yaml. The README says the rest."
    )


if __name__ == "__main__":
    main()
