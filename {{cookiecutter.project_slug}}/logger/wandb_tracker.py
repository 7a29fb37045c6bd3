"""Weights & Biases as the tracker of a run: logger.tracker=wandb.

Its environment variables set where runs are stored: WANDB_PROJECT, WANDB_ENTITY, WANDB_BASE_URL.
With WANDB_MODE=offline, they are stored in the run folder, and
``wandb sync RUN/wandb/offline-run-*`` sends them later.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from config.loading import flatten
from config.schema import Settings
from logger.figures import Figure, save_figure
from logger.log_writer import LogEntry, LogWriter
from utils.files import replace_file

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# Options that the installed version of W&B does not know are left out.
OPTIONS: dict[str, Any] = {
    "quiet": True,
    "symlink": False,
    "console": "off",  # train.log has the output
    "disable_code": True,  # manifest.json has the commit
    "x_disable_stats": True,  # statistics of the machine
    "x_transaction_log_flush_interval": 1.0,  # seconds; a killed process loses unwritten values
    "finish_timeout": 60.0,  # seconds to wait for a server; unsent values stay in the run folder
}


class Tracker(LogWriter):
    """A run of Weights & Biases, in a project named as this one, in a group named as the settings.

    A resumed run continues its run of W&B. The run folder has the ID of that run and the last step
    sent of each split. Values of steps that are computed again are not sent again.

    Args:
        folder: the run folder.
        settings: all settings of the run.
    """

    failures = (wandb.Error, OSError)

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.file = folder / "wandb.json"
        self.state: dict[str, Any] = {"id": os.urandom(8).hex(), "sent": {}}
        if self.file.exists():
            self.state = json.loads(self.file.read_text())
        self.sent_before: dict[str, int] = self.state["sent"]  # last step, by split
        known_options = wandb.Settings.model_fields
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _project_name(),
            group=settings.run_name,
            name=folder.name,
            id=self.state["id"],
            resume="allow",
            dir=folder,
            config=flatten(settings.model_dump(mode="json")),
            allow_val_change=True,  # a resumed run may have other settings
            settings={name: value for name, value in OPTIONS.items() if name in known_options},
        )
        self.first_step = self.run.step  # W&B accepts no values of earlier steps
        self._save_state({})

    def scalars(self, entries: Sequence[LogEntry]) -> None:
        """Logs the values of one or more entries."""
        new_rows = []
        last_steps = {}
        for row in entries:
            _, split, _, step, _ = row
            if step > self.sent_before.get(split, -1):
                new_rows.append(row)
                last_steps[split] = step
        # Saved before sending: after a kill, values may be missing, but none is sent twice.
        self._save_state(last_steps)
        for _, split, _, step, values in new_rows:
            named_values = {f"{split}/{name}": value for name, value in values.items()}
            self.run.log(named_values, step=max(step, self.first_step))

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Logs a figure."""
        content = BytesIO()
        save_figure(figure, content)
        image = wandb.Image(Image.open(content))  # from a figure, wandb.Image would use pyplot
        self.run.log({f"figures/{name}": image}, step=max(step, self.first_step))

    def close(self, state: str) -> None:
        """Ends the run as ``finished``, ``stopped`` or ``failed``."""
        exit_code = 0
        if state == "failed":
            exit_code = 1
        self.run.finish(exit_code=exit_code)
        wandb.teardown()  # waits until the service of W&B has written all values

    def _save_state(self, last_steps: Mapping[str, int]) -> None:
        """Saves the ID of the run and the last step sent of each split, with new ones."""
        sent = {**self.state["sent"], **last_steps}
        self.state = {**self.state, "sent": sent}
        replace_file(self.file, json.dumps(self.state).encode())


def _project_name() -> str:
    pyproject = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    return str(pyproject["project"]["name"])
