"""The record of a run: metrics.csv for programs, TensorBoard for people."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


class RunLog:
    """Appends to the files of one run folder.

    Args:
        folder: the run folder.
        data: the data's name, which stands in every row.
        step: the step that the run is at; what was logged of later ones is dropped, as they will
            be done again.
        tensorboard: whether to write TensorBoard files at all.
    """

    def __init__(self, folder: Path, data: str, step: int, tensorboard: bool) -> None:
        self.data = data
        file = folder / "metrics.csv"
        rows = list(csv.reader(file.read_text("utf-8").splitlines())) if file.exists() else []
        self.file = file.open("w", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file)
        self.rows.writerow(["data", "split", "epoch", "step", "metric", "value"])
        self.rows.writerows(row for row in rows[1:] if int(row[3]) <= step)
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
            self.board.add_text("data", data, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board:
            self.board.close()

    def scalars(self, split: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Writes one row for each value."""
        for name, value in values.items():
            self.rows.writerow([self.data, split, epoch, step, name, f"{value:.9g}"])
            if self.board:
                self.board.add_scalar(f"{split}/{name}", value, step)
        self.file.flush()

    def pictures(self, pictures: Mapping[str, Figure], step: int) -> None:
        """Shows figures in TensorBoard, by their names."""
        for name, figure in pictures.items():
            if self.board:
                self.board.add_figure(name, figure, step)

    def hyperparameters(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """Enters settings and final metrics into TensorBoard's table of runs."""
        if self.board:
            flat = {}
            for name, group in settings.items():
                for key, v in group.items() if isinstance(group, dict) else [("", group)]:
                    flat[f"{name}.{key}"] = v if isinstance(v, bool | int | float) else str(v)
            finals = {f"final/{name}": value for name, value in results.items()}
            self.board.add_hparams(flat, finals, run_name=".")
