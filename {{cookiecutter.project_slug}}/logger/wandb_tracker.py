"""Weights & Biases as a run's tracker: logger.tracker=wandb.

Its own variables say where runs go: WANDB_PROJECT, WANDB_ENTITY, WANDB_BASE_URL. WANDB_MODE=offline
keeps them in the run folder; ``wandb sync RUN/wandb/offline-run-*`` sends them later.
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
from logger.figures import Figure
from utils.files import replace_file

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# As far as the version of W&B knows them; what begins with x may come and go.
OPTIONS: dict[str, Any] = {
    "quiet": True,
    "symlink": False,
    "console": "off",  # which train.log has
    "disable_code": True,  # manifest.json has the commit
    "x_disable_stats": True,  # of the machine
    "x_transaction_log_flush_interval": 1.0,  # seconds; what is not in a file is lost by a kill
    "finish_timeout": 60.0,  # seconds to wait for a server; what it lacks stays in the run folder
}


class Tracker:
    """A run of Weights & Biases, in a project named as this one, in a group named as the settings.

    A run that goes on does so there, too: the run folder knows its number, and how far each split
    was sent. What was sent of a step is not sent again when the step is done again.

    Args:
        folder: the run folder.
        settings: what the run depends on.
    """

    failures = (wandb.Error, OSError)

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.file = folder / "wandb.json"
        self.state: dict[str, Any] = {"id": os.urandom(8).hex(), "sent": {}}
        if self.file.exists():
            self.state = json.loads(self.file.read_text())
        self.before = self.state["sent"]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _project_name(),
            group=settings.name,
            name=folder.name,
            id=self.state["id"],
            resume="allow",
            dir=folder,
            config=flatten(settings.model_dump(mode="json")),
            allow_val_change=True,  # a run may go on with other settings
            settings={k: v for k, v in OPTIONS.items() if k in wandb.Settings.model_fields},
        )
        self.first = self.run.step  # earlier ones are closed
        self._keep({})

    def scalars(self, rows: Sequence[tuple[float, str, int, int, Mapping[str, float]]]) -> None:
        """Notes values, from rows of time, split, epoch, step and values by name."""
        new = [row for row in rows if row[3] > self.before.get(row[1], -1)]
        # Before they are sent: after a kill, some may be missing, but none is there twice.
        self._keep({split: step for _, split, _, step, _ in new})
        for _, split, _, step, values in new:
            named = {f"{split}/{name}": value for name, value in values.items()}
            self.run.log(named, step=max(step, self.first))

    def picture(self, name: str, figure: Figure, step: int) -> None:
        """Shows a figure."""
        figure.savefig(content := BytesIO(), format="png")  # wandb.Image would look for pyplot
        picture = wandb.Image(Image.open(content))
        self.run.log({f"pictures/{name}": picture}, step=max(step, self.first))

    def close(self, state: str) -> None:
        """Ends the run as ``finished``, ``stopped`` or ``failed``."""
        self.run.finish(exit_code=int(state == "failed"))
        wandb.teardown()  # waits until its service has written all

    def _keep(self, steps: Mapping[str, int]) -> None:
        self.state = {**self.state, "sent": {**self.state["sent"], **steps}}
        replace_file(self.file, json.dumps(self.state).encode())


def _project_name() -> str:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return str(project["name"])
