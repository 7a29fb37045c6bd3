"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, ROOT

from config import loading

NOTEBOOK = ROOT / "notebooks/explore.ipynb"


def test_the_notebook_runs_and_keeps_no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the synthetic data, and without Jupyter: its cells are plain Python."""
    monkeypatch.setattr(loading, "DEFAULT", CONFIG)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    before = {*ROOT.iterdir()}
    monkeypatch.chdir(NOTEBOOK.parent)
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        exec("".join(cell["source"]), names)  # the project's own code
    assert Path.cwd() == ROOT
    assert {*ROOT.iterdir()} == before
    losses, accuracy = names["losses"], names["results"]["accuracy"]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert accuracy > 0.3
