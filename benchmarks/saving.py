"""The cost of a checkpoint, relative to fifty training steps of the default model.

Steps and saves alternate in one process: fifty steps with the default settings on synthetic images
of FashionMNIST's shape, then a complete save (state, check for non-finite values, SHA-256, fsync,
renaming). The medians over the rounds are printed; the first round is a warm-up.
"""

import importlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
STEPS = 50
ROUNDS = 1 if os.environ.get("QUICK") else 9


def main() -> None:
    """Prints two lines."""
    sys.path.insert(0, str(PAYLOAD))
    load_settings = importlib.import_module("config.loading").load_settings
    changes = ["data.name=synthetic.Synthetic", "logger.tensorboard=false", "trainer.epochs=99"]
    settings = load_settings(PAYLOAD / "config/fashion_mnist.yaml", changes)
    loaders = importlib.import_module("builders").build_training_loaders(settings)
    model = importlib.import_module("builders").build_model(settings, loaders["train"].dataset)
    record = importlib.import_module("logger.run_log").RunLog
    steps = []
    saves = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        run = Path(name)
        (run / "checkpoints").mkdir()
        build = importlib.import_module("builders").build_trainer
        trainer = build(settings, model, loaders, run)
        trainer.record = record(run, "benchmark", 0, settings)
        for k in range(ROUNDS + 1):
            start = time.perf_counter()
            for batches in loaders["train"].steps(k * STEPS, (k + 1) * STEPS):
                trainer.update(batches)
                trainer.step += 1
            middle = time.perf_counter()
            trainer.save(best=True)
            steps.append(middle - start)
            saves.append(time.perf_counter() - middle)
        trainer.record.file.close()
    save = statistics.median(saves[1:])
    fifty = statistics.median(steps[1:])
    print(f"one save: {1000 * save:.1f} ms; {STEPS} steps: {1000 * fifty:.0f} ms")
    print(f"saving every {STEPS} steps costs {100 * save / fifty:.1f} % (at most 3)")


if __name__ == "__main__":
    main()
