"""The processes of a sweep: train.py in the run folder of each trial."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.run_folder import CHECKPOINTS, PROJECT, has_checkpoint, step_in_name
from utils.errors import BAD_INPUT, UserError

ERROR_LINE = re.compile(r"^(?:\[rank \d+\] )?error: (.*)", re.MULTILINE)
MAX_ERROR_CHARACTERS = 300
MAX_OUTPUT_BYTES = 100_000  # at the end of the output, in which an error is looked for


@dataclass
class Run:
    """One training run of a trial.

    Attributes:
        folder: the run folder.
        output: the file for what train.py prints.
        overrides: the settings as ``KEY=VALUE``.
        starts_without_progress: processes that were killed before they have saved a step.
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
        variables: the environment variables of the process.
        ended: is set when the process has ended.
    """

    def __init__(
        self,
        run: Run,
        config: Path,
        processes: int,
        variables: Mapping[str, str],
        ended: threading.Event,
    ) -> None:
        self.run = run
        self.ended = ended
        self.processes = processes
        self.first_step = run.saved_step()
        self.is_resumed = has_checkpoint(run.folder)
        self.stop_requested = False
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={processes}"]
        command.append(str(PROJECT / "train.py"))
        if self.is_resumed:
            command += ["--resume", str(run.folder)]
        else:
            command += ["--config", str(config), "--run-dir", str(run.folder), *run.overrides]
        run.output.parent.mkdir(parents=True, exist_ok=True)
        with run.output.open("ab") as output:
            self._output_start = output.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables},
                start_new_session=True,  # the sweep decides which signals reach it
            )

        threading.Thread(target=self._await_end, daemon=True).start()

    def _await_end(self) -> None:
        """Waits in a thread: looking again and again would take CPU time from the trials."""
        self.process.wait()
        self.ended.set()

    def request_stop(self) -> None:
        """Asks the process to save its state and to end."""
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
        else:
            self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.process.poll() is not None:
            return
        if os.name == "nt":
            self.process.terminate()  # Windows has no signals
        else:
            os.killpg(self.process.pid, number)

    def has_made_progress(self) -> bool:
        """Whether a later step has been saved since the process started."""
        return self.run.saved_step() > self.first_step

    def can_be_resumed(self, exit_code: int) -> bool:
        """Whether no error, but a signal has ended the process."""
        if self.stop_requested or exit_code < 0 or exit_code > 128:
            return True
        if self.processes > 1 and not self._reported_errors():
            return True  # torchrun exits with 1, whatever has ended a process
        # A process of an earlier sweep has saved a checkpoint while this one was starting.
        return exit_code == BAD_INPUT and not self.is_resumed and has_checkpoint(self.run.folder)

    def describe_failure(self, exit_code: int) -> str:
        """The error that the process has reported, in one line."""
        error = read_result(self.run.folder).get("error")
        if isinstance(error, str) and error:
            return error
        errors = self._reported_errors()
        if errors:
            return errors[-1][:MAX_ERROR_CHARACTERS]
        return f"exit code {exit_code}, see {self.run.output}"

    def _reported_errors(self) -> list[str]:
        """The lines of its output that report errors, without the word error."""
        with self.run.output.open("rb") as output:
            end = output.seek(0, os.SEEK_END)
            output.seek(max(self._output_start, end - MAX_OUTPUT_BYTES))
            text = output.read().decode(errors="replace")
        errors: list[str] = ERROR_LINE.findall(text)
        return errors


# Devices


def job_variables(job: int, jobs: int, processes: int, devices: Sequence[str]) -> dict[str, str]:
    """The environment variables that divide a machine among the jobs.

    Each job gets its part of the GPUs, in turn, and its part of the CPU cores. Variables that the
    user has set to a number of threads are kept.

    Args:
        job: the number of the job, from 0.
        jobs: the number of jobs.
        processes: the number of training processes of each job.
        devices: the GPUs, as in CUDA_VISIBLE_DEVICES; empty if the CPU trains.
    """
    variables: dict[str, str] = {}
    if jobs > 1 and not os.environ.get("OMP_NUM_THREADS"):
        threads = max(1, available_cores() // (jobs * processes))
        variables["OMP_NUM_THREADS"] = str(threads)
    if devices:
        first = job * processes
        own = [devices[(first + offset) % len(devices)] for offset in range(processes)]
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return variables


def available_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_devices(device: str, processes: int) -> list[str]:
    """The GPUs of NVIDIA that the trials may use, without importing torch.

    Args:
        device: the setting; a device with a number is used by all jobs.
        processes: the number of training processes of each job.

    Raises:
        UserError: if one job needs more GPUs than there are.
    """
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [name.strip() for name in visible.split(",") if name.strip()]
    else:
        devices = [str(number) for number in range(_count_gpus())]
    if 0 < len(devices) < processes:
        raise UserError(
            f"--processes {processes}: this machine has {len(devices)} GPUs; each process needs one"
        )
    return devices


def _count_gpus() -> int:
    """The number of GPUs that nvidia-smi lists; 0 without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
