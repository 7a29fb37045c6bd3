"""Trains a model as the settings say: python train.py --help."""

from pathlib import Path
from typing import Any

from config.loading import load_settings, to_yaml
from config.reference import command_parser
from config.schema import Settings
from storage import run_folder
from utils.errors import UserError, run_command

DEFAULT = Path("config/fashion_mnist.yaml")


def main() -> int:
    """Reads the settings, or those of the run to go on with, and trains."""
    parser = command_parser("Trains a model, or goes on training it.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT}")
    parser.add_argument("--resume", metavar="RUN|last", help="go on with a run, or the newest one")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name>/<time>")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as in trainer.epochs=3")
    arguments = parser.parse_intermixed_args()
    if not arguments.resume:
        settings = load_settings(arguments.config or DEFAULT, arguments.settings)
        return train(settings, run_folder.plan_run(settings.name, arguments.run_dir))
    if arguments.config:
        raise UserError("--resume takes the run's own settings; change single ones by KEY=VALUE")
    root, name = arguments.run_dir or Path("runs"), arguments.resume
    run = run_folder.find_last_run(root) if name == "last" else Path(name)
    checkpoint = run_folder.find_checkpoint(run, "last")

    from storage.checkpoint import load_checkpoint

    state = load_checkpoint(checkpoint)
    settings = load_settings(state["settings"], arguments.settings)
    return train(settings, run_folder.folder_of(checkpoint), state)


def train(settings: Settings, run: Path, state: dict[str, Any] | None = None) -> int:
    """Builds the parts and trains; returns 0, or 128 and the signal that stopped training."""
    # torch takes seconds to import, so it waits until the settings are known to be right.
    from data_loader import build_training_loaders
    from logger.console import format_table, log, start_logging
    from model import build_model
    from trainer import build_trainer
    from utils.seed import seed_everything

    start_logging()
    seed_everything(settings.seed, settings.deterministic)
    loaders = build_training_loaders(settings)
    dataset, model = loaders["train"].dataset, build_model(settings, state)
    trainer = build_trainer(settings, model, loaders, run)
    with trainer.evaluating() as network:  # what does not fit together fails now, not in the run
        trainer.training_step(network, trainer.to_device(next(loaders["train"].steps(0, 1))[0]))
    if state is not None:
        trainer.load_state_dict(state)
    data = {"title": dataset.title, "samples": len(dataset), "hash": dataset.fingerprint()}
    manifest = run_folder.describe_origin(device=trainer.compute, data=data)
    run_folder.create_run(run, to_yaml(settings), manifest)

    start_logging(run / "train.log")
    log.info("%s\n\n%s on %s", format_table(model.summary()), dataset.title, trainer.compute)
    log.info("run folder: %s", run)
    trainer.fit()
    if trainer.stop_signal:
        log.info("stopped and saved; go on with: python train.py --resume %s", run)
        return 128 + trainer.stop_signal
    log.info("evaluate: python evaluate.py %s\ncurves: tensorboard --logdir %s", run, run)
    return 0


if __name__ == "__main__":
    run_command(main)
