"""MLflow as the tracker of a run: logger.tracker=mlflow.

MLFLOW_TRACKING_URI sets where runs are stored; by default, in mlflow.db and mlruns/ in the working
directory.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from config.loading import flatten, to_yaml
from config.schema import Settings
from logger.console import log
from logger.figures import Figure, drawing_style
from logger.log_writer import LogEntry, LogWriter
from utils.files import replace_file

# With these, training waits less than a minute for a server that is down, not a quarter of an hour.
REQUEST_OPTIONS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
RUN_STATES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
# Limits of MLflow:
MAX_METRICS_PER_CALL = 1000
MAX_PARAMS_PER_CALL = 100
MAX_PARAM_LENGTH = 500  # characters


class Tracker(LogWriter):
    """A run of MLflow, in an experiment with the name of the settings.

    A resumed run continues its run of MLflow, whose ID is in the run folder. MLflow cannot delete
    values, so values of steps that are computed again are not sent again.

    Args:
        folder: the run folder.
        settings: all settings of the run.
    """

    failures = (MlflowException, OSError)

    def __init__(self, folder: Path, settings: Settings) -> None:
        for name, value in REQUEST_OPTIONS.items():
            os.environ.setdefault(name, value)
        self.client = MlflowClient()
        id_file = folder / "mlflow.txt"
        resumed = id_file.exists()
        if resumed:
            run = self.client.get_run(id_file.read_text())
        else:
            run = self._create_run(folder.name, settings.run_name)
            replace_file(id_file, run.info.run_id.encode())
        self.run = run.info.run_id
        self.active = not resumed  # a resumed run keeps its final state until there are new values
        self.last_steps: dict[str, int] = {}  # by metric, when this process started
        self._log_settings(run, settings)
        log.info("MLflow: run %s, %s", self.run, self.client.tracking_uri)

    def scalars(self, entries: Sequence[LogEntry]) -> None:
        """Logs the values of one or more entries."""
        if not self.active:
            self.client.update_run(self.run, "RUNNING")
            self.active = True
        metrics = []
        for time, split, _, step, values in entries:
            milliseconds = int(time * 1000)
            for value_name, value in values.items():
                name = allowed_name(f"{split}/{value_name}")
                if step > self._last_step(name):
                    metrics.append(Metric(name, value, milliseconds, step))
        for start in range(0, len(metrics), MAX_METRICS_PER_CALL):
            self.client.log_batch(self.run, metrics[start : start + MAX_METRICS_PER_CALL])

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Stores a figure as a PNG file."""
        with drawing_style():
            self.client.log_figure(self.run, figure, f"figures/{name}_{step:08d}.png")

    def add_results(self, results: Mapping[str, float]) -> None:
        """Lets `close` set the final state, also of a resumed run without new values."""
        self.active = True

    def close(self, state: str) -> None:
        """Ends the run as ``finished``, ``stopped`` or ``failed``."""
        if self.active:
            self.client.set_terminated(self.run, RUN_STATES[state])

    def _create_run(self, name: str, experiment: str) -> Run:
        """Creates a run in an experiment, which is created as well if it does not exist."""
        known_experiment = self.client.get_experiment_by_name(experiment)
        if known_experiment is None:
            experiment_id = self.client.create_experiment(experiment)
        else:
            experiment_id = known_experiment.experiment_id
        return self.client.create_run(experiment_id, run_name=name)

    def _log_settings(self, run: Run, settings: Settings) -> None:
        """Logs the settings as parameters, which cannot be changed later, and as settings.yaml."""
        params = []
        for setting, value in flatten(settings.model_dump(mode="json")).items():
            name = allowed_name(setting)
            if name not in run.data.params:
                params.append(Param(name, str(value)[:MAX_PARAM_LENGTH]))
        for start in range(0, len(params), MAX_PARAMS_PER_CALL):
            self.client.log_batch(self.run, params=params[start : start + MAX_PARAMS_PER_CALL])
        self.client.log_text(self.run, to_yaml(settings), "settings.yaml")

    def _last_step(self, metric: str) -> int:
        """Returns the last step whose value MLflow had when this process started, or -1."""
        if metric not in self.last_steps:
            history = self.client.get_metric_history(self.run, metric)
            self.last_steps[metric] = max((entry.step for entry in history), default=-1)
        return self.last_steps[metric]


def allowed_name(name: str) -> str:
    """Replaces the characters that MLflow does not allow in names."""
    return re.sub(r"[^\w./ -]", "_", name)
