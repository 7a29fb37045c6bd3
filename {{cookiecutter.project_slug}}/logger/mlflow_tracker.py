"""MLflow as a run's tracker: logger.tracker=mlflow.

Runs go where MLFLOW_TRACKING_URI says or, without it, into mlflow.db and mlruns/ in the folder that
training is started in.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from config.loading import flatten, to_yaml
from config.schema import Settings
from logger.console import log
from logger.figures import Figure
from utils.files import replace_file

# Training waits for a server that has gone for less than a minute, instead of a quarter of an hour.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
STATES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
METRICS, PARAMS, LENGTH = 1000, 100, 500  # MLflow's limits of a call, and of a parameter's text


class Tracker:
    """A run of MLflow, in an experiment that has the settings' name.

    A run that goes on does so in MLflow, too: the run folder knows its number there. MLflow keeps
    all that it ever got, so what it has of a step is not sent again when the step is done again.

    Args:
        folder: the run folder.
        settings: what the run depends on.
    """

    failures = (MlflowException, OSError)

    def __init__(self, folder: Path, settings: Settings) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        self.client, number = MlflowClient(), folder / "mlflow.txt"
        self.active = not number.exists()  # of an old run, that it ended stays until it goes on
        if self.active:
            known = self.client.get_experiment_by_name(settings.name)
            place = known.experiment_id if known else self.client.create_experiment(settings.name)
            run = self.client.create_run(place, run_name=folder.name)
            replace_file(number, run.info.run_id.encode())
        else:
            run = self.client.get_run(number.read_text())
        self.run, self.last = run.info.run_id, dict[str, int]()  # step of a metric, at the start
        flat = flatten(settings.model_dump(mode="json")).items()
        texts = {_plain(name): str(value)[:LENGTH] for name, value in flat}
        new = [Param(name, text) for name, text in texts.items() if name not in run.data.params]
        for start in range(0, len(new), PARAMS):  # they cannot be changed, but settings.yaml can
            self.client.log_batch(self.run, params=new[start : start + PARAMS])
        self.client.log_text(self.run, to_yaml(settings), "settings.yaml")
        log.info("MLflow: run %s, %s", self.run, self.client.tracking_uri)

    def scalars(self, rows: Sequence[tuple[float, str, int, int, Mapping[str, float]]]) -> None:
        """Notes values, from rows of time, split, epoch, step and values by name."""
        if not self.active:
            self.client.update_run(self.run, "RUNNING")
            self.active = True
        metrics = [
            Metric(name, value, int(when * 1000), step)
            for when, split, _, step, values in rows
            for name, value in ((_plain(f"{split}/{k}"), v) for k, v in values.items())
            if step > self._last_step(name)
        ]
        for start in range(0, len(metrics), METRICS):
            self.client.log_batch(self.run, metrics[start : start + METRICS])

    def picture(self, name: str, figure: Figure, step: int) -> None:
        """Keeps a figure as a file."""
        self.client.log_figure(self.run, figure, f"pictures/{name}_{step:08d}.png")

    def close(self, state: str) -> None:
        """Ends the run as ``finished``, ``stopped`` or ``failed``."""
        if self.active:
            self.client.set_terminated(self.run, STATES[state])

    def _last_step(self, metric: str) -> int:
        """The last one that MLflow had a value of when training began or went on."""
        if metric not in self.last:
            history = self.client.get_metric_history(self.run, metric)
            self.last[metric] = max((entry.step for entry in history), default=-1)
        return self.last[metric]


def _plain(name: str) -> str:
    """A name of the signs that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", name)
