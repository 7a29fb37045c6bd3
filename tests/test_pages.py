"""The pages for users of other projects: the code works, and that of the others can be parsed."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from conftest import TEMPLATE, run
from ruamel.yaml import YAML

PAGES = sorted((TEMPLATE / "docs").glob("coming-from-*.md"))
SCRIPT = TEMPLATE / "tests/page_commands.py"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OWN = ("python", "yaml", "bash")  # these blocks belong to a project of this template


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the content of each code block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def read_yaml(text: str) -> None:
    list(YAML(typ="safe", pure=True).load_all(StringIO(text.replace("\n\n", "\n---\n"))))


def parse_shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


# Blocks that show another project have a shorter name of the language, and are parsed only.
PARSERS: dict[str, Callable[[str], object]] = {
    "py": ast.parse,
    "yml": read_yaml,
    "sh": parse_shell,
    "json": json.loads,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_the_other_project_can_be_parsed(page: Path) -> None:
    others = [(language, text) for language, text in blocks(page) if language not in OWN]
    assert others
    for language, text in others:
        PARSERS[language](text)


def commands_of(page: Path) -> list[str]:
    """The lines of the bash blocks."""
    return [
        line
        for language, text in blocks(page)
        if language == "bash"
        for line in text.replace("\\\n", "").splitlines()
    ]


def test_the_code_for_a_project_works(default_project: Path, tmp_path: Path) -> None:
    """Each file is complete, each command is valid, and the steps of the trainers run."""
    project = shutil.copytree(default_project, tmp_path / "project")
    written = []
    for page in PAGES:
        for language, text in blocks(page):
            if language in ("python", "yaml"):
                (name,) = re.findall(r"\A# (\S+)\n", text)
                assert not (project / name).exists(), name
                (project / name).write_text(text.partition("\n")[2], encoding="utf-8")
                written.append(name)
    commands = [command for page in PAGES for command in commands_of(page)]
    done = run("python", SCRIPT, cwd=project, typed="\n".join(commands))
    assert done.returncode == 0, done.stdout
    used = " ".join(commands)
    for name in written:
        stem = Path(name).stem
        assert stem in used or any(
            f"name: {stem}." in text or f"extends: {stem}." in text
            for page in PAGES
            for _, text in blocks(page)
        ), f"no command uses {name}"
    checks = run("ruff", "check", *[name for name in written if name.endswith(".py")], cwd=project)
    assert checks.returncode == 0, checks.stdout
