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


def own_blocks(*languages: str) -> list[str]:
    """The blocks of all pages that belong to a project of this template."""
    return [text for page in PAGES for language, text in blocks(page) if language in languages]


def file_name(block: str) -> str:
    """The name of the file that a block shows, which is in its first line."""
    match = re.match(r"# (\S+)\n", block)
    assert match, f"no name of a file: {block}"
    return match[1]


def test_the_code_for_a_project_works(default_project: Path, tmp_path: Path) -> None:
    """Each file is complete, each command is valid, and the steps of the trainers run."""
    project = shutil.copytree(default_project, tmp_path / "project")
    for block in own_blocks("python", "yaml"):
        file = project / file_name(block)
        assert not file.exists(), file
        file.write_text(block.partition("\n")[2], encoding="utf-8")
    commands = "".join(own_blocks("bash"))
    done = run("python", SCRIPT, cwd=project, typed=commands)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\n") >= commands.count("\n")
    modules = [file_name(block) for block in own_blocks("python")]
    done = run("ruff", "check", *modules, cwd=project)
    assert done.returncode == 0, done.stdout


def test_each_file_is_used_by_a_command_or_another_file() -> None:
    """Otherwise, no test runs it."""
    texts = own_blocks("python", "yaml", "bash")
    for block in own_blocks("python", "yaml"):
        stem = Path(file_name(block)).stem
        uses = [text for text in texts if text != block and re.search(rf"\b{stem}\.", text)]
        assert uses, f"nothing uses {file_name(block)}"
