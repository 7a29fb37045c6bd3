"""Shows samples as the model gets them: python preview.py --help."""

from pathlib import Path
from textwrap import shorten

from config.loading import load_settings
from config.reference import command_parser
from train import DEFAULT
from utils.errors import run_command
from utils.imports import importing

SHOWN = 9  # samples


def main() -> None:
    """Draws some samples, augmented and not; what cannot be drawn becomes a table."""
    parser = command_parser("Shows samples as the model gets them, augmented and not.")
    parser.add_argument("--config", type=Path, default=DEFAULT, metavar="FILE")
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    parser.add_argument("--output", type=Path, default=Path("preview"), metavar="DIR")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as in data.shift=2")
    arguments = parser.parse_intermixed_args()
    settings = load_settings(arguments.config, arguments.settings)

    with importing():
        import torch

        from builders import build_dataset, build_loader
        from logger.console import format_table
        from utils.seed import generator, seed_everything

    seed_everything(settings.seed)
    dataset = train = build_dataset(settings, "train")
    if arguments.split == "validation":  # the test data are for evaluate.py alone
        dataset = build_dataset(settings, "validation")
        dataset.load_state_dict(train.state_dict())
    build_loader(settings, dataset).check()
    draws = generator(settings.seed)
    batch = dataset.__getitems__(torch.randperm(len(dataset), generator=draws)[:SHOWN])
    for kind, source in {"plain": None, "augmented": draws}.items():
        samples = dataset.transform(batch, source)
        heading = f"{dataset.title}: {arguments.split}, {kind}"
        figure = dataset.draw(samples, heading)
        if figure is None:
            rows = zip(*(value.tolist() for value in samples.values()), strict=True)
            cells = [[shorten(str(value), 60) for value in row] for row in rows]
            print(f"{heading}\n{format_table([[*samples], *cells])}\n")
        else:
            arguments.output.mkdir(parents=True, exist_ok=True)
            file = arguments.output / f"{arguments.split}_{kind}.png"
            figure.savefig(file, dpi=100)
            print(file)


if __name__ == "__main__":
    run_command(main)
