"""TensorBoard files in the run folder."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from config.loading import flatten
from config.schema import Settings
from logger.figures import Figure, drawing_style
from logger.log_writer import LogEntry, LogWriter
from utils.command import typed_command

# TensorBoard sorts groups of charts by name: "train", "validation", "visuals", "vitals".
DETAILS = ("lr", "grad_norm", "samples_per_second", "waiting_for_data", "peak_memory_gb")
DETAILS_GROUP = "vitals"
FIGURES_GROUP = "visuals"
# The first columns of the table of runs, and the first rows of the table of settings.
MAIN_SETTINGS = (
    "model.name",
    "optimizer.name",
    "optimizer.lr",
    "optimizer.weight_decay",
    "scheduler.name",
    "loss.name",
    "data.batch_size",
    "trainer.epochs",
    "seed",
)

FLOAT32_MAX = 3.4e38  # TensorBoard stores float32; metrics.csv contains larger values


class TensorBoard(LogWriter):
    """Writes the log of a run for TensorBoard.

    It shows the curves of training and validation first, then the figures, then learning rates,
    gradients and speed.

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
        self.writer.add_text("command", f"    {typed_command()}", step)
        self.writer.add_text("settings", as_markdown(settings), step)

    def scalars(self, entries: Sequence[LogEntry]) -> None:
        """Writes one event for each entry, which takes less time than one for each value."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for entry in entries:
            summary = Summary()
            for name, value in entry.values.items():
                if FLOAT32_MAX < abs(value) < math.inf:
                    continue  # a squared error, say; it would be shown as infinite
                summary.value.add(tag=tag_of(entry.split, name), simple_value=value)
            self.writer._get_file_writer().add_summary(summary, entry.step, entry.timestamp)

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Writes a figure as an image."""
        with drawing_style():
            self.writer.add_figure(f"{FIGURES_GROUP}/{name}", figure, step)

    def add_results(self, results: Mapping[str, float]) -> None:
        """Adds the settings and the final results to TensorBoard's table of runs."""
        settings = {}
        for name, value in main_settings_first(self.settings).items():
            is_supported = isinstance(value, bool | int | float)
            settings[name] = value if is_supported else str(value)
        metrics = {f"validation/{name}": value for name, value in results.items()}
        # Their last values are in the log; `add_hparams` would add curves of one point.
        experiment, start, end = hparams(settings, metrics)
        show_main_settings_first(experiment)
        for summary in (experiment, start, end):
            self.writer._get_file_writer().add_summary(summary)

    def flush(self) -> None:
        """Writes everything to the disk."""
        self.writer.flush()

    def close(self, state: str) -> None:
        """Ends the files; `state` is for trackers."""
        self.writer.close()

    def abandon(self) -> None:
        """Leaves the files as they are: `close` would wait for a thread that has ended."""


def tag_of(split: str, name: str) -> str:
    """The name of a curve, with its group before the slash."""
    if split == "train" and name.partition("/")[0] in DETAILS:
        return f"{DETAILS_GROUP}/{name}"
    return f"{split}/{name}"


def main_settings_first(settings: Settings) -> dict[str, Any]:
    """All settings by their full names, the most important ones first."""
    values = flatten(settings.model_dump(mode="json"))
    main = {name: values[name] for name in MAIN_SETTINGS if name in values}
    return main | values


def show_main_settings_first(experiment: Any) -> None:
    """Sets the order of the columns of the table of runs in the summary of an experiment.

    TensorBoard sorts them by name, after those that are said to differ between runs.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    plugin_data = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin_data.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in MAIN_SETTINGS
    plugin_data.content = content.SerializeToString()


def as_markdown(settings: Settings) -> str:
    """All settings as a table."""
    lines = ["| setting | value |", "|---|---|"]
    for name, value in main_settings_first(settings).items():
        cell = str(value).replace("|", "\\|")
        lines.append(f"| {name} | {cell} |")
    return "\n".join(lines)
