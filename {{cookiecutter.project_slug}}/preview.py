"""Shows samples as the model gets them: python preview.py --help."""

from pathlib import Path

from config.help import command_parser
from config.loading import DEFAULT, load_settings
from utils.errors import run_command
from utils.imports import importing

SHOWN = 9  # samples


def main() -> None:
    """BatchGenerator some samples, augmented and not; what cannot be drawn becomes a table."""
    parser = command_parser("Shows samples as the model gets them, augmented and not.")
    parser.add_argument("--config", type=Path, default=DEFAULT, metavar="FILE")
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    parser.add_argument("--output", type=Path, default=Path("preview"), metavar="DIR")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as in seed=3")
    arguments = parser.parse_intermixed_args()
    settings = load_settings(arguments.config, arguments.settings)

    with importing():
        import torch

        from builders import build_dataset, build_loader
        from logger.console import format_table
        from logger.figures import save_figure
        from utils.randomness import generator, permute, seed_everything

    seed_everything(settings.seed)
    dataset = train = build_dataset(settings, "train")
    if arguments.split == "validation":  # the test data are for evaluate.py alone
        dataset = build_dataset(settings, "validation")
        dataset.load_state_dict(train.state_dict())
    build_loader(settings, dataset).check()
    draws = generator(settings.seed)
    places = torch.arange(min(SHOWN, len(dataset)))
    batch = dataset.__getitems__(permute(places, len(dataset), draws))
    plain = dataset.transform(batch, None)
    kinds = {"plain": plain, "augmented": dataset.transform(batch, draws)}
    if all(torch.equal(plain[name], value) for name, value in kinds["augmented"].items()):
        del kinds["augmented"]
    for kind, samples in kinds.items():
        heading = f"{dataset.title}: {arguments.split}, {kind}"
        figure = dataset.draw(samples, heading)
        if figure is None:
            print(f"{heading}\n{format_table(dataset.table(samples))}\n")
        else:
            arguments.output.mkdir(parents=True, exist_ok=True)
            file = arguments.output / f"{arguments.split}_{kind}.png"
            save_figure(figure, file)
            print(file)


if __name__ == "__main__":
    run_command(main)
