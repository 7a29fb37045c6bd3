"""Checks commands of the documents without training; runs in a project's folder.

Usage: python page_commands.py < COMMANDS

Each line of the input is a command. Its options and settings are parsed by the project itself. The
components of each training command with a settings file are built, and make one step of a copy, as
`train.py` does before it trains. Commands with the same classes share one such step.
"""

import shlex
import sys
import tempfile
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, "")  # the modules of the project, which mypy does not find here
COMMANDS = {"check", "compare", "evaluate", "sweep", "train"}


def split_launcher(words: list[str]) -> list[str]:
    """The program and its arguments, without what starts it.

    Raises:
        SystemExit: if an option of the launcher does not exist.
    """
    if words[0] == "python":
        return words[1:]
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        launched = get_args_parser().parse_args(words[1:])
        return [launched.training_script, *launched.training_script_args]
    if words[0] == "sbatch":
        arguments = words[words.index("slurm.sh") + 1 :]
        program = "train.py"
        if arguments[0] == "sweep":
            program = "sweep.py"
            arguments = arguments[1:]
        return [program, *arguments]
    raise SystemExit(f"{shlex.join(words)}: unknown program {words[0]}")


def check_settings(
    program: str, module: Any, arguments: Namespace, checked: set[tuple[str, ...]]
) -> None:
    """Reads the settings of a command, and makes a step with those of a training command.

    Args:
        program: the name of the command.
        module: its module.
        arguments: its arguments.
        checked: the names of the classes with which a step was made.
    """
    loading = import_module("config.loading")
    default = import_module("config.reading").DEFAULT
    if program == "sweep" and arguments.settings:
        module.check_plan(module.make_plan(module.sweep_options(arguments), arguments.settings))
    if program in ("check", "train") and getattr(arguments, "resume", None) is None:
        settings = loading.load_settings(arguments.config or default, arguments.settings)
        classes = (settings.data.name, settings.model.name, settings.trainer.name)
        if program == "train" and arguments.config is not None and classes not in checked:
            checked.add(classes)
            check_step(settings)


def check_step(settings: Any) -> None:
    """Builds the components and makes a step, an evaluation and a prediction on a copy."""
    builders = import_module("builders")
    import_module("utils.randomness").seed_everything(settings.seed, settings.deterministic)
    loaders = builders.build_training_loaders(settings, None)
    model = builders.build_new_model(settings, loaders["train"].dataset)
    with tempfile.TemporaryDirectory() as folder:
        trainer = builders.build_trainer(settings, model, loaders, Path(folder))
        import_module("sanity_check").check_trainer(trainer)


def main() -> None:
    """Checks the commands of the standard input, and prints each of them."""
    checked: set[tuple[str, ...]] = set()
    for line in sys.stdin.read().splitlines():
        print(line, flush=True)
        file, *arguments = split_launcher(shlex.split(line))
        program = file.removesuffix(".py")
        if program not in COMMANDS:
            raise SystemExit(f"{line}: not one of {', '.join(sorted(COMMANDS))}")
        sys.argv = [file, *arguments]
        module = import_module(program)
        check_settings(program, module, module.parse_arguments(), checked)


if __name__ == "__main__":
    try:
        main()
    except import_module("utils.errors").UserError as error:
        sys.exit(f"error: {error}")
