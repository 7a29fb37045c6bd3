"""How many images a second the default network trains on: by hand and ours, each compiled too.

Both train on random images of FashionMNIST's shape that lie on the device, mirrored at random
there, with the same batches of 128, number format (bf16 where the hardware has it), optimizer and
schedule; ours with its defaults, as train.py has them. The device is waited for at both ends of
what is timed, and by ours in each fiftieth step, to log. All in turn, the median over the rounds.
Without an accelerator nothing is measured, unless DEVICE says where: compiling takes a while.
"""

# mypy: disable-error-code="import-not-found, misc, no-untyped-call"
# (it takes the payload's modules as they are run, and torch's untyped methods)

import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from data import Random
from torch.nn.functional import cross_entropy

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PAYLOAD))

from base.batch_loader import BatchLoader, Step  # noqa: E402
from config.loading import load_settings  # noqa: E402
from model.networks import ConvNet  # noqa: E402
from trainer.classifier import Classifier  # noqa: E402
from utils.device import select_autocast_dtype, select_device  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
BATCH, EDGE = 128, 10 if QUICK else 50  # EDGE: steps at either end that are not timed
STEPS, ROUNDS = (40, 1) if QUICK else (400, 5)


class Clock:
    """Times the steps between both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.step, self.times = device, 0, list[float]()

    def tick(self) -> None:
        """To be called at the beginning of each step."""
        if self.step in (EDGE, STEPS - EDGE):
            if self.device.type != "cpu":
                torch.accelerator.synchronize(self.device)
            self.times.append(time.perf_counter())
        self.step += 1

    def images(self) -> float:
        """A second."""
        return (STEPS - 2 * EDGE) * BATCH / (self.times[1] - self.times[0])


def by_hand(data: Random, device: torch.device, compiled: bool) -> float:
    """The loop that a person would write."""
    clock, model = Clock(device), ConvNet(data, mirror=True).to(device)
    if compiled:
        model.compile()
    fast: Any = {"momentum": 0.9, "nesterov": True, "fused": True}
    optimizer = torch.optim.SGD(model.parameters(), 0.2, weight_decay=5e-4, **fast)
    precision = select_autocast_dtype("auto", device)
    pixels, targets = data.images.to(device), data.targets.to(device)
    mean, std = (255 * value for value in data.mean_and_std)
    for step, indices in enumerate(torch.randperm(len(data), device=device).split(BATCH)[:STEPS]):
        clock.tick()
        optimizer.param_groups[0]["lr"] = 0.2 * min(5 * (step + 1) / STEPS, 1 - step / STEPS)
        images = pixels[indices]
        mirrored = torch.rand(len(images), 1, 1, 1, device=device) < 0.5
        images = (torch.where(mirrored, images.flip(3), images).float() - mean) / std
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = cross_entropy(model(images), targets[indices], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return clock.images()


def ours(data: Random, device: torch.device, compiled: bool) -> float:
    """The generated project's trainer, with its defaults."""
    clock = Clock(device)

    class Timed(Classifier):
        def update(self, step: Step) -> Any:
            clock.tick()
            return super().update(step)

    changes = [f"device={device}", f"trainer.max_steps={STEPS}", f"trainer.compile={compiled}"]
    settings = load_settings(PAYLOAD / "config/fashion_mnist.yaml", [*changes, "trainer.epochs=1"])
    loaders = {
        "train": BatchLoader(data, BATCH, 0),
        "validation": BatchLoader(Random(BATCH), BATCH),
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoints").mkdir()
        model = ConvNet(data, mirror=True)
        Timed(settings=settings, model=model, loaders=loaders, run=Path(folder)).fit()
    return clock.images()


def main() -> None:
    """Prints a table."""
    device = select_device(os.environ.get("DEVICE", "auto"))
    if device.type == "cpu" and "DEVICE" not in os.environ:
        print("no accelerator here")
        return
    kinds = {"by hand": by_hand, "torch-template": ours}
    loops = {
        name + ", compiled" * compiled: partial(loop, compiled=compiled)
        for compiled in (False, True)
        for name, loop in kinds.items()
    }
    found: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            data = Random(BATCH * (STEPS + 1))  # anew, as ours moves it
            data.flip = True
            found[name].append(loop(data, device))
    dtype = select_autocast_dtype("auto", device)
    print(f"{device}, {dtype}: images a second, share of those by hand")
    base = statistics.median(found["by hand"])
    for name, values in found.items():
        print(
            f"{name:26s} {statistics.median(values):12,.0f} {statistics.median(values) / base:8.3f}"
        )


if __name__ == "__main__":
    main()
