"""The cost of a checkpoint, relative to fifty training steps.

Each round times three blocks of fifty steps, in changing order: without a checkpoint, after a
complete save (state, check for non-finite values, SHA-256, fsync, renaming), and after a save in
the background (`checkpoint.background`), which a thread writes during the steps. `waits` is the
time in the call that saves; `more time` is that of the block, compared with the block of the same
round without a checkpoint: the median, lowest and highest ratio. On two cores, the thread takes
a part of the time of the steps.

The networks are the default one, and an MLP 784-4096-4096-10 with the momentum of SGD: 20 million
parameters, 160 MB. The images are synthetic, of FashionMNIST's shape; the first round is a warm-up.
"""

import importlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
STEPS = 50
QUICK = bool(os.environ.get("QUICK"))
ALWAYS = [
    "data.name=synthetic.Synthetic",
    "logger.tensorboard=false",
    "trainer.epochs=9999",
    "device=cpu",
]
SGD = "optimizer={name: SGD, lr: 0.01, momentum: 0.9}"
NETWORKS = {  # changes of the default settings, and the number of rounds
    "default network": ([], 15),
    "MLP, 160 MB": (["model={name: networks.MLP, width: 4096}", SGD], 5),
}
MODES = ("no save", "save", "in the background")


def build(changes: list[str], folder: Path) -> Any:
    """Builds a trainer with the default settings and these changes."""
    load_settings = importlib.import_module("config.loading").load_settings
    builders = importlib.import_module("builders")
    settings = load_settings(PAYLOAD / "config/fashion_mnist.yaml", [*ALWAYS, *changes])
    loaders = builders.build_training_loaders(settings)
    model = builders.build_model(settings, loaders["train"].dataset)
    (folder / "checkpoints").mkdir()
    return builders.build_trainer(settings, model, loaders, folder)


def block(trainer: Any, mode: str) -> tuple[float, float]:
    """Saves and makes STEPS steps; returns the seconds of the save and of both together."""
    first = trainer.progress.step
    steps = trainer.loaders["train"].steps(first, first + STEPS)
    step = next(steps)  # a new epoch may begin here
    start = time.perf_counter()
    if mode != "no save":
        checkpointer = trainer.checkpointer
        background = mode == "in the background"
        checkpointer.settings = checkpointer.settings.model_copy(update={"background": background})
        trainer.save(is_best=True)
    saved = time.perf_counter() - start
    while step is not None:
        trainer.update(step.to(trainer.device))
        trainer.progress.step += 1
        step = next(steps, None)
    taken = time.perf_counter() - start
    trainer.checkpointer.finish()
    assert not trainer.checkpointer.failure
    return saved, taken


def main() -> None:
    """Prints a table."""
    sys.path.insert(0, str(PAYLOAD))
    print(f"{'network':16s} {'':18s}  waits, ms  {STEPS} steps, ms  more time   min - max")
    for name, (changes, rounds) in NETWORKS.items():
        found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
            trainer = build(changes, Path(folder))
            with trainer.run_log.open(0):
                for number in range(2 if QUICK else rounds + 1):
                    for mode in [*MODES[number % 3 :], *MODES[: number % 3]]:
                        measured = block(trainer, mode)
                        if number > 0:
                            found[mode].append(measured)
        usual = [taken for _, taken in found["no save"]]
        for mode, pairs in found.items():
            waits = statistics.median(saved for saved, _ in pairs)
            taken = statistics.median(both for _, both in pairs)
            more = [both / one - 1 for (_, both), one in zip(pairs, usual, strict=True)]
            print(
                f"{name:16s} {mode:18s} {1e3 * waits:10.1f} {1e3 * taken:13.0f} "
                f"{statistics.median(more):10.1%}  {min(more):5.1%} - {max(more):.1%}"
            )


if __name__ == "__main__":
    main()
