"""The predictions in docs/scaling.md are those of its script."""

import sys
from pathlib import Path

from conftest import TEMPLATE, run


def test_the_document_contains_each_table_row_that_the_model_prints(tmp_path: Path) -> None:
    done = run(sys.executable, TEMPLATE / "benchmarks/scaling_model.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    text = (TEMPLATE / "docs/scaling.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 20
    assert not [row for row in rows if row not in text]
