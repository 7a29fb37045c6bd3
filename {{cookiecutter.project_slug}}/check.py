"""Checks data, model and training before hours are spent: python check.py --help."""

import argparse
import contextlib
import difflib
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.help import SettingsParser
from config.loading import load_settings
from config.schema import Settings
from logger.console import progress_bar
from utils.command import run_command
from utils.errors import UserError, describe_error
from utils.files import to_json
from utils.imports import fast_imports
from utils.paths import folder_argument
from utils.ranks import world_size
from utils.signals import exiting_on_signals

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer
    from checks.verdict import Verdict

PARTS = (
    "data",
    "loss",
    "overfit",
    "gradients",
    "independence",
    "rate",
    "batch",
    "determinism",
    "workers",
)


def main() -> int:
    """Prints a line for each check; returns 1 if one of them fails, else 0."""
    arguments = parse_arguments()
    parts = read_parts(arguments.part)
    if world_size() > 1:
        raise UserError("check.py runs in one process; start it without torchrun")
    # A compiled model would take longer to compile than to check.
    overrides = ["trainer.compile=false", *arguments.settings]
    settings = load_settings(arguments.config, overrides)
    output = sys.stdout
    if arguments.json:  # what the project's code prints must not get into the JSON
        output = sys.stderr
    with (
        exiting_on_signals(),
        contextlib.redirect_stdout(output),
        tempfile.TemporaryDirectory() as run,
    ):
        verdicts = run_checks(settings, parts, Path(run), arguments)
    has_failed = any(verdict.failures for verdict in verdicts)
    if arguments.json:
        checks = [verdict.as_dict() for verdict in verdicts]
        print(to_json({"failed": has_failed, "checks": checks}))
    return int(has_failed)


def parse_arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = SettingsParser(
        description="Checks data, model and training before hours are spent. The exit code is 1 if "
        "a check fails. Nothing is trained or saved."
    )
    parser.add_settings("optimizer.lr=0.1")
    parser.add_argument(
        "--part",
        metavar="PART,...",
        help=f"the checks to make, of {', '.join(PARTS)}; default: all",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--output",
        type=folder_argument,
        default=Path("check"),
        metavar="DIR",
        help="folder of the figure of the learning rates; default: check",
    )
    return parser.parse_command_line()


def read_parts(text: str | None) -> Sequence[str]:
    """The names of the checks to make, each once.

    Raises:
        UserError: if there is no check with such a name.
    """
    if text is None:
        return PARTS
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--part {text!r} names no check; use some of {', '.join(PARTS)}")
    for name in names:
        if name not in PARTS:
            similar = difflib.get_close_matches(name, PARTS, n=1)
            advice = f"use some of {', '.join(PARTS)}"
            if similar:
                advice = f"did you mean {similar[0]}? The parts are {', '.join(PARTS)}"
            raise UserError(f"--part {name}: there is no such check; {advice}")
    return list(dict.fromkeys(names))


def run_checks(
    settings: Settings, parts: Sequence[str], run: Path, arguments: argparse.Namespace
) -> list["Verdict"]:
    """The verdicts of some checks, each of which is printed at once unless all are wanted as JSON.

    If the sanity check of train.py fails, no step can be made, so only the data are checked.

    Args:
        settings: all settings of the run.
        parts: the names of the checks.
        run: an empty folder.
        arguments: those of the command line.
    """
    with fast_imports():
        from checks.batch_size import check_batch_size
        from checks.dataset import check_data
        from checks.determinism import check_determinism
        from checks.gradients import check_gradients
        from checks.independence import check_independence
        from checks.initial_loss import check_loss
        from checks.overfit import check_overfit
        from checks.rate import check_rate
        from checks.waiting import check_workers

    trainer = build_trainer(settings, run)
    checks: dict[str, Callable[[], Verdict]] = {
        "data": lambda: check_data(trainer),
        "loss": lambda: check_loss(trainer),
        "overfit": lambda: check_overfit(trainer),
        "gradients": lambda: check_gradients(trainer),
        "independence": lambda: check_independence(trainer),
        "rate": lambda: check_rate(trainer, arguments.output),
        "batch": lambda: check_batch_size(trainer),
        "determinism": lambda: check_determinism(trainer, lambda: build_trainer(settings, run)),
        "workers": lambda: check_workers(trainer),
    }
    verdicts: list[Verdict] = []
    sanity = judge("sanity", lambda: check_sanity(trainer))
    if sanity.failures:
        verdicts.append(sanity)
        if not arguments.json:
            print(sanity.describe(), flush=True)
        parts = [name for name in parts if name == "data"]
    for number, name in enumerate(parts):
        with progress_bar(len(parts), f"check {name}", number) as bar:
            bar.refresh()
            verdicts.append(judge(name, checks[name]))
        if not arguments.json:
            print(verdicts[-1].describe(), flush=True)
    return verdicts


def judge(name: str, check: Callable[[], "Verdict"]) -> "Verdict":
    """The verdict of a check; an error in the project's code is a failure."""
    from checks.verdict import Skipped, Verdict

    verdict = Verdict(name)
    try:
        return check()
    except Skipped as reason:
        verdict.reason = str(reason)
    except Exception as error:  # whatever the code of a project may raise
        verdict.failures.append(describe_error(error))
    return verdict


def check_sanity(trainer: "BaseTrainer") -> "Verdict":
    """The sanity check of train.py, which raises an error if it fails."""
    from checks.verdict import Verdict
    from sanity_check import check_trainer

    check_trainer(trainer)
    return Verdict("sanity")


def build_trainer(settings: Settings, run: Path) -> "BaseTrainer":
    """The trainer of a new run, as train.py builds it."""
    import builders
    from utils.randomness import seed_everything

    seed_everything(settings.seed, settings.deterministic)
    loaders = builders.build_training_loaders(settings)
    model = builders.build_new_model(settings, loaders["train"].dataset)
    return builders.build_trainer(settings, model, loaders, run)


if __name__ == "__main__":
    run_command(main)
