"""The pages in docs/ about a project: their code runs, and their diagrams match the code."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import FILES, PAYLOAD, TEMPLATE, needs_all, render, run
from test_project import DATA_ROOT, run_bash

PAGE = TEMPLATE / "docs/from-notebook.md"
LOAD_SETTINGS = """
import json, sys
from pathlib import Path
from config.loading import load_settings
for config, changes in json.loads(sys.argv[1]):
    load_settings(Path(config), changes)
"""


def code_blocks(page: Path, language: str) -> list[str]:
    """Returns the contents of the code blocks of a page, without blank lines at their end."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)\n```", text, re.DOTALL | re.MULTILINE)


def write_files(page: Path, project: Path) -> None:
    """Writes the files that a page shows; the first line of each contains its name."""
    for block in code_blocks(page, "python") + code_blocks(page, "yaml"):
        first, _, content = block.partition("\n")
        if re.fullmatch(r"# [\w/]+\.\w+", first):
            assert not (project / first[2:]).exists()
            (project / first[2:]).write_text(content + "\n", encoding="utf-8")


def test_the_notebook_has_the_code_of_its_page_in_the_same_order() -> None:
    notebook = json.loads((PAYLOAD / "notebooks/from_notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    blocks = code_blocks(PAGE, "python")
    assert len(blocks) == 7
    assert [cell for cell in cells if cell in blocks] == blocks


@needs_all
def test_the_project_of_the_page_trains_and_its_commands_work(tmp_path: Path) -> None:
    assert render(tmp_path, example="bare").returncode == 0
    project = tmp_path / "my-project"
    write_files(PAGE, project)
    train, use = code_blocks(PAGE, "bash")
    run_bash(train, project)
    answers = run_bash(use, project)
    metrics = json.loads((project / "runs/first/evaluation/test/metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert re.search(r"^0\.5,0\.5 +inside", answers, re.MULTILINE)
    assert re.search(r"^-1\.8,1 +outside", answers, re.MULTILINE)
    run_bash("ruff check . && ruff format --check .", project)
    check_quoted_errors(project)


def check_quoted_errors(project: Path) -> None:
    """The page quotes two messages under "What can go wrong"."""
    text = PAGE.read_text(encoding="utf-8")
    command = ["python", "train.py", "--config", "config/disc.yaml"]
    done = run(*command, "data.name=data_loader.disc.Disc", cwd=project)
    assert "did you mean disc.Disc?" in done.stdout
    assert "did you mean disc.Disc?" in text
    network = project / "model/disc_net.py"
    network.write_text(network.read_text().replace("Linear(width, 2)", "Linear(width, 3)"))
    message = run(*command, cwd=project).stdout.splitlines()[-1]
    assert message.removeprefix("error: ") in text


def test_the_diagrams_match_the_code(tmp_path: Path) -> None:
    done = run("python", TEMPLATE / "docs/diagrams.py", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    for drawn in tmp_path.glob("*.svg"):
        committed = TEMPLATE / "docs" / drawn.name
        assert drawn.read_text() == committed.read_text(), "run python docs/diagrams.py"
    assert {file.stem for file in tmp_path.glob("*.svg")} == {"layers", "imports", "step"}


@needs_all
@pytest.mark.parametrize("example", FILES)
def test_the_commands_on_the_page_of_an_example_work(tmp_path: Path, example: str) -> None:
    if example == "fashion_mnist" and not DATA_ROOT:
        pytest.skip("DATA_ROOT is not set to a folder with FashionMNIST")
    assert render(tmp_path, example=example).returncode == 0
    project = tmp_path / "my-project"
    for commands in code_blocks(TEMPLATE / f"docs/examples/{example}.md", "bash"):
        run_bash(commands, project)
    assert (project / "runs/first/evaluation/test/metrics.json").exists()


def test_the_pages_of_the_examples_name_settings_that_exist() -> None:
    """Those for data of the reader's own, which no test has."""
    commands = []
    for example, files in FILES.items():
        text = (TEMPLATE / f"docs/examples/{example}.md").read_text(encoding="utf-8")
        for line in re.findall(r"python train\.py [^`\n]+", text):
            _, _, *arguments = shlex.split(line)
            config = files[0]
            if "--config" in arguments:
                config = arguments[arguments.index("--config") + 1]
            changes = [argument for argument in arguments if "=" in argument]
            commands.append((config, changes))
        settings = re.findall(r"`'?([a-z_]+\.[a-z_]+=[^`']+)'?`", text)
        commands.append((files[0], [setting for setting in settings if "FOLDER" not in setting]))
    assert len(commands) > 2 * len(FILES)
    done = run("python", "-c", LOAD_SETTINGS, json.dumps(commands), cwd=PAYLOAD)
    assert done.returncode == 0, done.stdout
