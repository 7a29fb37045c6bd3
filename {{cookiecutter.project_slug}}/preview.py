"""Shows samples as the model gets them, or a schedule: python preview.py --help."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.help import SettingsParser
from config.loading import load_settings
from config.reading import DEFAULT
from config.schema import Settings
from utils.command import next_command, run_command
from utils.paths import folder_argument

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset, Batch

SHOWN_SAMPLES = 9
SPLITS = ("train", "validation")  # only evaluate.py uses the test set


def main() -> None:
    """Draws some samples, plain and augmented; prints a table of those that cannot be drawn."""
    parser = SettingsParser(
        description="Shows samples as the model gets them, plain and augmented; or the schedule."
    )
    parser.add_settings("seed=3")
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument(
        "--schedule",
        action="store_true",
        help="draw the learning rate over the run instead of samples",
    )
    parser.add_argument(
        "--output",
        type=folder_argument,
        default=Path("preview"),
        metavar="DIR",
        help="default: preview",
    )
    arguments = parser.parse_command_line()
    overrides = arguments.settings
    if arguments.schedule:  # it does not depend on the device
        overrides = [*overrides, "device=cpu", "trainer.compile=false"]
    settings = load_settings(arguments.config, overrides)

    from utils.randomness import seed_everything  # imports torch, which takes 1.3 s

    seed_everything(settings.seed)
    if arguments.schedule:
        from schedule_preview import preview_schedule

        preview_schedule(settings, arguments.output)
        return
    dataset = load_split(settings, arguments.split)
    for kind, batch in sample_batches(dataset, settings.seed).items():
        heading = f"{dataset.title}: {arguments.split}, {kind}"
        file = arguments.output / f"{arguments.split}_{kind}.png"
        show(dataset, batch, heading, file)
    config = []
    if arguments.config != DEFAULT:
        config = ["--config", arguments.config]
    print(f"train: {next_command('train.py', *config, *arguments.settings)}")


def load_split(settings: Settings, split: str) -> "BaseDataset":
    """A split of the data set, with statistics fitted on the training samples."""
    from builders import build_fitted_dataset, build_loader

    dataset = build_fitted_dataset(settings, split)
    build_loader(settings, dataset).check()
    return dataset


def sample_batches(dataset: "BaseDataset", seed: int) -> Mapping[str, "Batch"]:
    """Random samples as for evaluation and, if that differs, as for training."""
    import torch

    from utils.nested import named_tensors
    from utils.randomness import make_generator, permute

    rng = make_generator(seed)
    positions = torch.arange(min(SHOWN_SAMPLES, len(dataset)))
    batch = dataset.__getitems__(permute(positions, len(dataset), rng))
    plain = dataset.transform(batch, None)
    augmented = dataset.transform(batch, rng)
    plain_tensors = dict(named_tensors(plain))
    if all(torch.equal(plain_tensors[name], value) for name, value in named_tensors(augmented)):
        return {"plain": plain}
    return {"plain": plain, "augmented": augmented}


def show(dataset: "BaseDataset", batch: "Batch", heading: str, file: Path) -> None:
    """Saves a figure of a batch, or prints it as a table."""
    from logger.console import format_table
    from logger.figures import save_figure

    figure = dataset.draw(batch, heading)
    if figure is None:
        print(f"{heading}\n{format_table(dataset.table(batch))}\n")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, file)
    print(file)


if __name__ == "__main__":
    run_command(main)
