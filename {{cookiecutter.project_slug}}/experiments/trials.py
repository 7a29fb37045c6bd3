"""The runs of a trial, and the processes of train.py that train them."""

import json
import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.spare_process import SpareProcess
from storage.run_folder import CHECKPOINTS, PROJECT, has_checkpoint, step_in_name
from utils.errors import BAD_INPUT, LOST_CONNECTION

# The first line of an error, and the second one if the first ends with a colon.
ERROR = re.compile(r"^(?:\[rank \d+\] )?error: (.*:\n.*|.*)", re.MULTILINE)
MAX_ERROR_CHARACTERS = 300
SIGNAL_EXIT_CODE = 128  # plus the number of the signal
MAX_OUTPUT_BYTES = 100_000  # at the end of the output, in which an error is looked for


@dataclass
class TrialRun:
    """One training run of a trial.

    Attributes:
        folder: the run folder.
        output: the file for what train.py prints.
        overrides: the settings as ``KEY=VALUE``.
        starts_without_progress: how many processes in a row were killed before they saved a step.
    """

    folder: Path
    output: Path
    overrides: list[str]
    starts_without_progress: int = 0

    def is_finished(self) -> bool:
        """Whether all steps are done, according to result.json."""
        return read_result(self.folder).get("state") == "finished"

    def saved_step(self) -> int:
        """The step of the newest checkpoint; -1 if there is none."""
        steps = [step_in_name(file) for file in self.folder.glob(CHECKPOINTS)]
        return max((step for step in steps if step is not None), default=-1)


def read_result(run: Path) -> dict[str, Any]:
    """The content of result.json; empty while a run has not ended."""
    try:
        result = json.loads((run / "result.json").read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(result, dict):
        return {}
    return result


class RunProcess:
    """A process that trains a run, from its last checkpoint if it has one.

    Args:
        run: the run.
        config: the settings file of a new run.
        processes: the number of training processes.
        spare: the process, which waits for a run.
        ended: is set when the process has ended.
    """

    def __init__(
        self,
        run: TrialRun,
        config: Path,
        processes: int,
        spare: SpareProcess,
        ended: threading.Event,
    ) -> None:
        self.run = run
        self.ended = ended
        self.processes = processes
        self.first_step = run.saved_step()
        self.is_resumed = has_checkpoint(run.folder)
        self.stop_requested = False
        run.output.parent.mkdir(parents=True, exist_ok=True)
        with run.output.open("ab") as output:
            self._output_start = output.tell()
        self.process = spare.start(self._command(config), run.output)
        threading.Thread(target=self._await_end, daemon=True).start()

    def _command(self, config: Path) -> list[str]:
        command = [str(PROJECT / "train.py")]
        if self.processes > 1:
            torchrun = ["torch.distributed.run", "--standalone"]
            command = [*torchrun, f"--nproc-per-node={self.processes}", *command]
        run = self.run
        if self.is_resumed:
            return [*command, "--resume", str(run.folder)]
        return [*command, "--config", str(config), "--run-dir", str(run.folder), *run.overrides]

    def _await_end(self) -> None:
        """Waits in a thread: looking again and again would take CPU time from the trials."""
        self.process.wait()
        self.ended.set()

    def request_stop(self) -> None:
        """Asks the process to save its state and to end.

        Only once: train.py takes a second signal for the wish to end at once, without saving.
        """
        if self.stop_requested:
            return
        self.stop_requested = True
        self._send(signal.SIGTERM)

    def wait(self, seconds: float | None) -> bool:
        """Waits for the end of the process; whether it has ended.

        Args:
            seconds: how long to wait at most; None for no limit.
        """
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Ends the process and its children at once."""
        if os.name == "nt":
            self.process.kill()
            return
        children = child_processes(self.process.pid)
        self._send(signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):  # it has ended
                os.kill(child, signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.process.poll() is not None:
            return
        if os.name == "nt":
            self.process.terminate()  # Windows has no signals
        else:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(self.process.pid, number)

    def has_made_progress(self) -> bool:
        """Whether a later step has been saved since the process started."""
        return self.run.saved_step() > self.first_step

    def can_be_resumed(self, exit_code: int) -> bool:
        """Whether a new process may continue the run: no error has ended this one."""
        if self.stop_requested:
            return True
        signal_number = exit_code - SIGNAL_EXIT_CODE
        if exit_code < 0 or 0 < signal_number < signal.NSIG:
            return True
        if self.processes > 1 and not self._has_failed():
            return True  # torchrun exits with 1, whatever has ended a process
        # The folder was empty when the process was started, and is not any more: a process that a
        # killed sweep has left behind has saved its first checkpoint meanwhile.
        return exit_code == BAD_INPUT and not self.is_resumed and has_checkpoint(self.run.folder)

    def _has_failed(self) -> bool:
        """Whether one of several processes has ended by an error.

        A process whose connection to a killed one is lost has not. A crash prints a traceback, and
        no line that begins with error, but the first process records it.
        """
        result = read_result(self.run.folder)
        is_recorded = result.get("state") == "failed" and result.get("error") != LOST_CONNECTION
        return is_recorded or len(self._reported_errors()) > 0

    def describe_failure(self, exit_code: int) -> str:
        """The error that the process has reported, in one line."""
        error = read_result(self.run.folder).get("error")
        if isinstance(error, str) and error and error != LOST_CONNECTION:
            return error
        errors = self._reported_errors()
        if errors:
            return errors[-1][:MAX_ERROR_CHARACTERS]
        return f"exit code {exit_code}, see {self.run.output}"

    def _reported_errors(self) -> list[str]:
        """The errors in its output, each in one line and without the word error.

        That another process has ended is not an error of its own.
        """
        with self.run.output.open("rb") as output:
            end = output.seek(0, os.SEEK_END)
            output.seek(max(self._output_start, end - MAX_OUTPUT_BYTES))
            text = output.read().decode(errors="replace")
        errors = [" ".join(error.split()) for error in ERROR.findall(text)]
        return [error for error in errors if error != LOST_CONNECTION]


def child_processes(process: int) -> list[int]:
    """The children of a process on Linux, by number; elsewhere none.

    They may be in other process groups: torchrun starts each of its processes in its own session.
    """
    children: list[int] = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            children += map(int, file.read_text().split())
    return children
