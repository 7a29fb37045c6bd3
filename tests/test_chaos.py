"""The short form of `make chaos`: killed and resumed runs end like an uninterrupted one."""

from pathlib import Path

import pytest
from conftest import needs_all, run

CHAOS = Path(__file__).with_name("chaos.py")


@pytest.mark.parametrize("seed", [1])
def test_killed_and_resumed_runs_end_like_an_uninterrupted_one(tmp_path: Path, seed: int) -> None:
    """Runs in a separate process, since the script forks."""
    arguments = ("--kills", "6", "--terms", "3", "--seed", str(seed))
    done = run("python", str(CHAOS), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    table = dict(
        line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line[-1:].isdigit()
    )
    assert int(table["killed by SIGKILL"]) >= 6
    assert int(table["killed by SIGTERM"]) >= 3
    assert table["wrong results"] == "0"


@needs_all
def test_a_killed_sweep_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    done = run("python", str(CHAOS.with_name("chaos_sweep.py")), "--kills", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "wrong results                    0" in done.stdout
