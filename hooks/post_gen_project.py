"""Keeps the chosen files, begins a git repository, and says what to do next.

It works with `os` alone where it can: importing more takes longer than all that it does.
"""

import os
import sys

SLUG = "{{ cookiecutter.project_slug }}"
LICENSE = "{{ cookiecutter.license }}"
EXAMPLE = "{{ cookiecutter.example }}"
DEFAULT = "{{ cookiecutter._files.example[cookiecutter.example] | first }}"
FOREIGN = "{{ cookiecutter | foreign }}"  # files of options that were not chosen


def keep_chosen() -> None:
    """Removes what only other options bring; licence and default settings are the chosen ones."""
    os.replace(f"licenses/{LICENSE}", "LICENSE")
    for file in FOREIGN.split():
        os.remove(file)
        folder = os.path.dirname(file)
        if folder and not os.listdir(folder):
            os.removedirs(folder)
    with open("config/default.txt", "w", encoding="utf-8", newline="\n") as pointer:
        pointer.write(DEFAULT.removeprefix("config/") + "\n")


def remove_caches() -> None:
    """Removes what tools left in the template's folder, where it is run in place."""
    caches = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")
    own = [name for name in os.listdir() if name in caches]
    folders = [name for name in os.listdir() if os.path.isdir(name) and name not in own]
    inner = [os.path.join(folder, "__pycache__") for folder in folders]
    for cache in filter(os.path.isdir, own + inner):
        from shutil import rmtree

        rmtree(cache)


def begin_repository() -> str:
    """Makes a git repository, unless the project is in one already; returns what was done."""
    parent = os.getcwd()
    while not os.path.exists(os.path.join(parent, ".git")):
        if parent == os.path.dirname(parent):
            break
        parent = os.path.dirname(parent)
    else:
        return f"It is in the git repository of {parent}."
    init = ["git", "-c", "init.defaultBranch=main", "init", "--quiet"]
    if hasattr(os, "spawnvp"):
        code = os.spawnvp(os.P_WAIT, "git", init)  # 127: there is no such program
    else:  # on Windows
        import subprocess

        try:
            code = subprocess.run(init, check=False).returncode
        except OSError:
            code = 127
    if code == 127:
        return "git is not installed, so there is no repository yet."
    if code != 0:
        return "git could not make a repository of it."
    return "It is a git repository, with nothing committed yet."


def main() -> None:
    """Cookiecutter runs hooks in the new project's folder."""
    keep_chosen()
    remove_caches()
    print(
        f"\n{SLUG} is there. {begin_repository()}\n\n"
        "Next, with uv:\n\n"
        f"    cd {SLUG}\n"
        "    uv run train.py\n\n"
        "or with pip:\n\n"
        f"    cd {SLUG}\n"
        "    python -m venv .venv && . .venv/bin/activate\n"
        '    pip install -e ".[dev]"\n'
        "    python train.py\n\n"
        + "Without a network: add --config config/synthetic.yaml. " * (EXAMPLE == "fashion_mnist")
        + "The README says the rest.",
        file=sys.stderr,  # which all terminals can show in some way; and cruft diff prints a patch
    )


if __name__ == "__main__":
    main()
