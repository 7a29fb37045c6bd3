"""Training throughput of the default network: a hand-written loop and this template.

Each is measured with and without `compile`. Both train on random images of FashionMNIST's shape
that are stored on the device, with random horizontal flips, batches of 128, and the same autocast
dtype (bfloat16 if the hardware supports it), optimizer and schedule. The template has the default
settings of train.py. The host waits for the device at the start and at the end of the timed steps;
the template also waits at every fiftieth step, to log. The cases alternate; the table shows the
median over the rounds. Without an accelerator nothing is measured, unless DEVICE names a device.
"""

# mypy: disable-error-code="import-not-found, misc, no-untyped-call"
# (the payload's modules are imported at run time; some methods of torch are untyped)

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

from base.batch_loader import BatchLoader  # noqa: E402
from config.loading import load_settings  # noqa: E402
from model.networks import ConvNet  # noqa: E402
from trainer.classifier import Classifier  # noqa: E402
from utils.device import autocast_dtype, select_device  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
BATCH = 128
STEPS = 40 if QUICK else 400
UNTIMED_STEPS = 10 if QUICK else 50  # at the start, and as many at the end
ROUNDS = 1 if QUICK else 5


class Clock:
    """Measures the steps between the untimed ones."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.step = 0
        self.times: list[float] = []

    def tick(self) -> None:
        """Must be called at the start of each step."""
        if self.step in (UNTIMED_STEPS, STEPS - UNTIMED_STEPS):
            if self.device.type != "cpu":
                torch.accelerator.synchronize(self.device)
            self.times.append(time.perf_counter())
        self.step += 1

    def images_per_second(self) -> float:
        """Returns the throughput of the timed steps."""
        images = (STEPS - 2 * UNTIMED_STEPS) * BATCH
        return images / (self.times[1] - self.times[0])


def by_hand(data: Random, device: torch.device, compiled: bool) -> float:
    """Trains with a hand-written loop; returns images per second."""
    clock = Clock(device)
    model = ConvNet(data, mirror=True).to(device)
    if compiled:
        model.compile()
    fast: Any = {"momentum": 0.9, "nesterov": True, "fused": True}
    optimizer = torch.optim.SGD(model.parameters(), 0.2, weight_decay=5e-4, **fast)
    precision = autocast_dtype("auto", device)
    pixels = data.images.to(device)
    targets = data.targets.to(device)
    mean, std = (255 * value for value in data.mean_and_std)
    for step, indices in enumerate(torch.randperm(len(data), device=device).split(BATCH)[:STEPS]):
        clock.tick()
        optimizer.param_groups[0]["lr"] = 0.2 * min(5 * (step + 1) / STEPS, 1 - step / STEPS)
        images = pixels[indices]
        flipped = torch.rand(len(images), 1, 1, 1, device=device) < 0.5
        images = (torch.where(flipped, images.flip(3), images).float() - mean) / std
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = cross_entropy(model(images), targets[indices], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return clock.images_per_second()


def ours(data: Random, device: torch.device, compiled: bool) -> float:
    """Trains with the template's trainer and its default settings; returns images per second."""
    clock = Clock(device)

    class Timed(Classifier):
        def update(self, batches: Any) -> None:
            clock.tick()
            super().update(batches)

    changes = [f"device={device}", f"trainer.max_steps={STEPS}", f"trainer.compile={compiled}"]
    settings = load_settings(PAYLOAD / "config/fashion_mnist.yaml", [*changes, "trainer.epochs=1"])
    loaders = {
        "train": BatchLoader(data, BATCH, 0),
        "validation": BatchLoader(Random(BATCH), BATCH),
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoints").mkdir()
        Timed(
            settings=settings,
            model=ConvNet(data, mirror=True),
            loaders=loaders,
            run=Path(folder),
            **settings.trainer.arguments,
        ).fit()
    return clock.images_per_second()


def main() -> None:
    """Prints a table."""
    device = select_device(os.environ.get("DEVICE", "auto"))
    if device.type == "cpu" and "DEVICE" not in os.environ:
        print("no accelerator found")
        return
    loops = {
        "by hand": partial(by_hand, compiled=False),
        "torch-template": partial(ours, compiled=False),
        "by hand, compiled": partial(by_hand, compiled=True),
        "torch-template, compiled": partial(ours, compiled=True),
    }
    found: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            data = Random(BATCH * (STEPS + 1))  # a new one each time, as the trainer moves it
            data.flip = True
            found[name].append(loop(data, device))
    print(f"{device}, {autocast_dtype('auto', device)}: images per second, ratio to by hand")
    base = statistics.median(found["by hand"])
    for name, values in found.items():
        print(
            f"{name:26s} {statistics.median(values):12,.0f} {statistics.median(values) / base:8.3f}"
        )


if __name__ == "__main__":
    main()
