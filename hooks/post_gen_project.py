"""Removes the temporary files, creates a git repository and prints the next steps.

It uses little besides `os`: importing more would take longer than the hook itself.
"""

import os
import sys

SLUG = "{{ cookiecutter.project_slug }}"
LICENSE = "{{ cookiecutter.license }}"
EXAMPLE = "{{ cookiecutter.example }}"
DEFAULT = "{{ cookiecutter._files.example[cookiecutter.example] | first }}"
FOREIGN = "{{ cookiecutter | foreign | join(' ') }}"  # files that are not part of the project
HAS_AUTHOR = "{{ cookiecutter.author_name != 'Your Name' }}"


def keep_selected() -> None:
    """Puts the licence and the default settings in place; removes what is not part of a project."""
    os.remove("INCOMPLETE.md")
    os.remove("skipped-file")  # the files of other options
    os.replace(f"licenses/{LICENSE}", "LICENSE")
    for file in FOREIGN.split():
        folder = os.path.dirname(file)
        if os.path.isdir(folder) and not os.listdir(folder):
            os.removedirs(folder)
    with open("config/default.txt", "w", encoding="utf-8", newline="\n") as pointer:
        pointer.write(DEFAULT.removeprefix("config/") + "\n")


def remove_caches() -> None:
    """Removes the caches of tools that were run in the template's payload folder."""
    names = ("__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")
    caches = list(names)
    for folder in os.listdir():
        if folder not in names:
            caches.append(os.path.join(folder, "__pycache__"))
    for cache in caches:
        if os.path.isdir(cache):
            from shutil import rmtree

            rmtree(cache)


def find_repository() -> str | None:
    """Returns the folder of the git repository that contains the project, if there is one."""
    folder = os.getcwd()
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if folder == parent:
            return None
        folder = parent
    return folder


def create_repository() -> str:
    """Creates a git repository, unless the project is inside one; returns what was done."""
    existing = find_repository()
    if existing is not None:
        return f"It is part of the git repository in {existing}."
    init = ["git", "-c", "init.defaultBranch=main", "init", "--quiet"]
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        os.environ.pop(variable, None)  # git would initialise the repository that it names
    if hasattr(os, "spawnvp"):
        code = os.spawnvp(os.P_WAIT, "git", init)  # 127: the program was not found
    else:  # on Windows
        import subprocess

        try:
            code = subprocess.run(init, check=False).returncode
        except OSError:
            code = 127
    if code == 127:
        return "git is not installed, so no repository was created."
    if code != 0:
        return "git could not create a repository."
    return "It is a git repository without commits."


def main() -> None:
    """Cookiecutter runs this hook in the folder of the new project."""
    remove_caches()
    keep_selected()
    author = ""
    if HAS_AUTHOR == "False":
        author = "Write your name into LICENSE, pyproject.toml and README.md.\n"
    offline = ""
    if EXAMPLE == "fashion_mnist":
        offline = "Without network access, add --config config/synthetic.yaml.\n"
    print(
        f"\nThe project is in the folder {SLUG}. {create_repository()}\n\n"
        "Next steps with uv:\n\n"
        f"    cd {SLUG}\n"
        "    uv run train.py\n\n"
        "or with pip:\n\n"
        f"    cd {SLUG}\n"
        "    python -m venv .venv && . .venv/bin/activate\n"
        '    pip install -e ".[dev]"\n'
        "    python train.py\n\n"
        f"{author}{offline}"
        "README.md describes the commands, and docs/ everything else.",
        file=sys.stderr,  # it replaces letters that a terminal lacks, and cruft diff prints a patch
    )


if __name__ == "__main__":
    main()
