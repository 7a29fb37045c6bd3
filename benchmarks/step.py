"""Where the time of a training step of the default network goes, and what its arithmetic needs.

torch's profiler adds up the time of each operator on the CPU, without that of the operators that
it calls. What is left of the step is the time between operators: Python, autograd, the loop, its
checks and its log. The profiler itself makes a step slower, so the times are scaled to the duration
of a step without it.

The minimum is the number of floating-point operations of the step, divided by the throughput of a
large matrix product with the same number of threads and the same dtype.
"""

# mypy: disable-error-code="import-not-found, no-any-return, no-untyped-call"
# (the payload's modules are imported at run time)

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PAYLOAD))

from builders import build_model, build_trainer, build_training_loaders  # noqa: E402
from config.loading import load_settings  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
STEPS = 10 if QUICK else 200
ROUNDS = 1 if QUICK else 5
CHANGES = ["data.name=synthetic.Synthetic", "logger.tensorboard=false", "device=cpu"]
MATRIX_SIZE = 2048
KINDS = {  # parts of the names of operators; the first kind that matches counts
    "convolution, backward": ("convolution_backward",),
    "convolution, forward": ("convolution",),
    "batch normalisation": ("batch_norm",),
    "ReLU": ("relu", "threshold_backward"),
    "pooling and maximum": ("pool", "amax", "value_selecting"),
    "AdamW": ("adam", "sgd", "foreach"),
    "Muon (matrix products), last layer, loss": ("mm", "softmax", "nll", "cross_entropy"),
    "loading and augmentation": ("index", "flip", "where", "random", "rand"),
}
OTHER = "other operators: sums, square roots, casts, copies"


def kind_of(operator: str) -> str:
    """Returns the kind of work that an operator does."""
    for kind, parts in KINDS.items():
        if any(part in operator for part in parts):
            return kind
    return OTHER


def train(trainer: Any, first: int) -> None:
    """Makes STEPS training steps as `fit` does, from step `first`."""
    for step in trainer.loaders["train"].steps(first, first + STEPS):
        trainer.update(step.to(trainer.device))


def count_operations(trainer: Any) -> int:
    """Returns the floating-point operations of a step, forward and backward."""
    (step,) = trainer.loaders["train"].steps(0, 1)
    with FlopCounterMode(display=False) as counter:
        trainer.update(step.to(trainer.device))
    return counter.get_total_flops()


def matrix_throughput(dtype: torch.dtype) -> float:
    """Returns the floating-point operations per second of a large matrix product."""
    matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE, dtype=dtype)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return 2 * MATRIX_SIZE**3 / min(times)


def main() -> None:
    """Prints the table."""
    settings = load_settings(PAYLOAD / "config/fashion_mnist.yaml", CHANGES)
    loaders = build_training_loaders(settings)
    model = build_model(settings, loaders["train"].dataset)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "checkpoints").mkdir()
        trainer = build_trainer(settings, model, loaders, Path(name))
        train(trainer, 0)
        times = []
        for number in range(1, ROUNDS + 1):
            start = time.perf_counter()
            train(trainer, number * STEPS)
            times.append((time.perf_counter() - start) / STEPS)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            train(trainer, 0)
            profiled = (time.perf_counter() - start) / STEPS
        operations = count_operations(trainer)
    step = statistics.median(times)
    by_kind: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = kind_of(event.key)
        seconds = 1e-6 * event.self_cpu_time_total / STEPS
        by_kind[kind] = by_kind.get(kind, 0.0) + seconds * step / profiled
    by_kind["between operators"] = step - sum(by_kind.values())
    print(f"{'one step, batch of ' + str(settings.data.batch_size):52s}     ms  of the step")
    for kind, seconds in sorted(by_kind.items(), key=lambda item: -item[1]):
        print(f"{kind:52s} {1e3 * seconds:6.2f} {100 * seconds / step:11.1f}%")
    print(f"{'sum':52s} {1e3 * step:6.2f} {100:11.1f}%")
    dtype = trainer.autocast_dtype
    minimum = operations / matrix_throughput(dtype)
    print(
        f"minimum: {operations / 1e9:.2f} GFLOP at the speed of a matrix product "
        f"({str(dtype).removeprefix('torch.')}, {operations / minimum / 1e9:.0f} GFLOP/s): "
        f"{1e3 * minimum:.2f} ms"
    )


if __name__ == "__main__":
    main()
