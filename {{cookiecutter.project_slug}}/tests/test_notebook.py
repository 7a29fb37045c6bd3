"""The notebooks run from their first cell to their last."""
# ruff: noqa: D103  the names of the tests say what they test

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, ROOT, needs

from config import reading

EXPLORE = ROOT / "notebooks/explore.ipynb"
FROM_NOTEBOOK = ROOT / "notebooks/from_notebook.ipynb"


@pytest.fixture(autouse=True)
def notebook_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the cells where Jupyter does, with synthetic data as the default."""
    monkeypatch.setattr(reading, "DEFAULT", CONFIG)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(EXPLORE.parent)


def run_cells(notebook: Path) -> dict[str, Any]:
    """Runs the cells without Jupyter, because they are plain Python; returns their variables.

    They must be saved without outputs, and leave no files behind.
    """
    files_before = {*ROOT.iterdir(), *notebook.parent.iterdir()}
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        exec(source, names)
    assert {*ROOT.iterdir(), *notebook.parent.iterdir()} == files_before
    return names


@needs(EXPLORE)
def test_the_notebook_for_exploring_trains_a_network() -> None:
    names = run_cells(EXPLORE)
    assert Path.cwd() == ROOT
    losses = names["losses"]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert names["results"]["accuracy"] > 0.15  # after 16 steps; by chance 0.1


@needs(FROM_NOTEBOOK)
def test_the_notebook_and_the_project_solve_the_same_task() -> None:
    names = run_cells(FROM_NOTEBOOK)
    assert names["accuracy"] > 0.9
    assert names["results"]["accuracy"] > 0.9
    assert names["restored_trainer"].progress.step == names["trainer"].total_steps
