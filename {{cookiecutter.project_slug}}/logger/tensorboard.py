"""TensorBoard files in the run folder."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from config.loading import flatten
from config.schema import Settings
from logger.figures import Figure, drawing_style
from logger.log_writer import LogEntry, LogWriter

FLOAT32_MAX = 3.4e38  # TensorBoard stores float32; metrics.csv contains larger values


class TensorBoard(LogWriter):
    """Writes the log of a run for TensorBoard.

    Args:
        folder: the run folder.
        settings: all settings of the run.
        title: the name of the data.
        step: the step at which training starts; entries of later steps are hidden.
    """

    description = "TensorBoard"

    def __init__(self, folder: Path, settings: Settings, title: str, step: int) -> None:
        self.settings = settings
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        self.writer.add_text("data", title, step)

    def scalars(self, entries: Sequence[LogEntry]) -> None:
        """Writes one event for each entry, which takes less time than one for each value."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for entry in entries:
            summary = Summary()
            for name, value in entry.values.items():
                if FLOAT32_MAX < abs(value) < math.inf:
                    continue  # a squared error, say; it would be shown as infinite
                summary.value.add(tag=f"{entry.split}/{name}", simple_value=value)
            self.writer._get_file_writer().add_summary(summary, entry.step, entry.timestamp)

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Writes a figure as an image."""
        with drawing_style():
            self.writer.add_figure(name, figure, step)

    def add_results(self, results: Mapping[str, float]) -> None:
        """Adds the settings and the final results to TensorBoard's table of runs."""
        settings = {}
        for name, value in flatten(self.settings.model_dump(mode="json")).items():
            is_supported = isinstance(value, bool | int | float)
            settings[name] = value if is_supported else str(value)
        final_results = {f"final/{name}": value for name, value in results.items()}
        self.writer.add_hparams(settings, final_results, None, ".")

    def flush(self) -> None:
        """Writes everything to the disk."""
        self.writer.flush()

    def close(self, state: str) -> None:
        """Ends the files; `state` is for trackers."""
        self.writer.close()
