"""Processes that import torch before a run of a sweep begins."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from storage.run_folder import PROJECT

LAUNCHER = PROJECT / "experiments/launcher.py"


class SpareProcess:
    """A process that imports torch, and waits until it is given a run.

    The import of torch takes longer than a few steps. It happens while another run trains: a sweep
    of 20 short runs takes 0.54 of the time of a shell loop, and without this 1.11
    (benchmarks/sweeps.py).

    Args:
        variables: the environment variables of the process.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(LAUNCHER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **variables},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # the sweep decides which signals reach it
        )

    def start(self, command: Sequence[str], output: Path) -> subprocess.Popen[str]:
        """Lets the process run a command.

        Args:
            command: ``train.py`` and its arguments, or a module and its arguments.
            output: the file for what it prints.

        Returns:
            The process, which may have been killed meanwhile.
        """
        request = json.dumps({"command": list(command), "output": str(output.absolute())})
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has been killed
            self.process.stdin.write(request + "\n")
            self.process.stdin.close()
        return self.process

    def end(self) -> None:
        """Ends the process, which has been given no run."""
        self.process.kill()
        self.process.communicate()
