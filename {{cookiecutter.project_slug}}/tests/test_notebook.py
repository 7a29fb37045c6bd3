"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, ROOT, needs

from config import reading

NOTEBOOK = ROOT / "notebooks/explore.ipynb"


@needs(NOTEBOOK)
def test_the_notebook_runs_and_is_saved_without_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On synthetic data and without Jupyter, because its cells are plain Python."""
    monkeypatch.setattr(reading, "DEFAULT", CONFIG)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(NOTEBOOK.parent)
    files_before = set(ROOT.iterdir())
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        exec(source, names)
    assert Path.cwd() == ROOT
    assert set(ROOT.iterdir()) == files_before
    losses = names["losses"]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert names["results"]["accuracy"] > 0.3
