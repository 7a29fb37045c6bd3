"""How the time of a step and the memory grow with the data set, the run and the log.

Times: median time of a step of a tiny network with the template's trainer and its default settings,
and its ratio to the first row; the cases alternate. Memory: peak memory of a process that trains
the default network on synthetic images of FashionMNIST's shape, compared with a hand-written loop
on the same tensors; and of processes that run few and many steps.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"
# (the payload's modules are imported at run time)

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PAYLOAD))

from base.base_dataset import BaseDataset  # noqa: E402
from base.base_model import BaseModel  # noqa: E402
from base.batch_loader import BatchLoader, Step  # noqa: E402
from builders import build_training_loaders  # noqa: E402
from config.loading import load_settings  # noqa: E402
from trainer.classifier import Classifier  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 1 if QUICK else 9
STEPS = 300 if QUICK else 500
IMAGE_STEPS = 50 if QUICK else 10**6  # of the default network; at most one epoch
BATCH = 64
ROWS = 4096  # stored rows; a longer data set repeats them
OPTIONS = ["device=cpu", "trainer.precision=fp32", f"data.batch_size={BATCH}"]
OPTIONS += ["logger.tensorboard=false", "trainer.epochs=1000000"]


class Points(BaseDataset):
    """Any number of random points, which repeat after ROWS."""

    title = "points"
    classes = tuple("0123456789")
    in_memory = True
    uses_global_rng = False

    def __init__(self, length: int) -> None:
        rng = torch.Generator().manual_seed(0)
        self.length = length
        self.inputs = torch.randn(ROWS, 20, generator=rng)
        self.targets = torch.randint(10, (ROWS,), generator=rng)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> dict[str, Tensor]:
        rows = indices % ROWS
        return {"input": self.inputs[rows], "target": self.targets[rows]}


class Net(BaseModel):
    """A network with one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, input: Tensor) -> Tensor:
        """Returns the logits."""
        logits: Tensor = self.layers(input)
        return logits


class Timed(Classifier):
    """Records the start of each step; can log additional scalars."""

    scalars = 0

    def update(self, step: Step) -> dict[str, Tensor]:
        """Records the time, then makes a step."""
        self.times.append(time.perf_counter())
        return super().update(step)

    def training_step(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns loss and accuracy, and `scalars` copies of the loss."""
        found = super().training_step(model, batch)
        return found | {f"more{k}": found["loss"] for k in range(self.scalars)}


def step_time(samples: int = 10_000, begin: int = 0, scalars: int = 0) -> float:
    """Returns the median time of a step in microseconds, from step `begin` on."""
    torch.manual_seed(0)
    settings = load_settings(
        PAYLOAD / "config/synthetic.yaml", [*OPTIONS, f"trainer.max_steps={begin + STEPS}"]
    )
    loaders = {"train": BatchLoader(Points(samples), BATCH, 0)}
    loaders["validation"] = BatchLoader(Points(BATCH), BATCH)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoints").mkdir()
        trainer = Timed(
            settings=settings,
            model=Net(),
            loaders=loaders,
            run=Path(folder),
            **settings.trainer.arguments,
        )
        trainer.progress.step = begin
        trainer.times = list[float]()
        trainer.scalars = scalars
        trainer.fit()
    pairs = zip(trainer.times, trainer.times[1:], strict=False)
    return statistics.median(after - before for before, after in pairs) * 1e6


def peak(kind: str, steps: int = 0) -> float:
    """Returns the peak memory in MB of a process that runs `work`."""
    command = [sys.executable, __file__, kind, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def work(kind: str, steps: int) -> None:
    """Trains on images ("by hand", "ours") or for many steps ("points"); prints peak MB."""
    if kind == "points":
        settings = load_settings(
            PAYLOAD / "config/synthetic.yaml", [*OPTIONS, f"trainer.max_steps={steps}"]
        )
        loaders = {"train": BatchLoader(Points(steps * BATCH // 100), BATCH, 0)}  # 100 epochs
        loaders["validation"] = BatchLoader(Points(BATCH), BATCH)
        model: BaseModel = Net()
    else:
        changes = ["device=cpu", "trainer.epochs=1", "logger.tensorboard=false"]
        changes += [f"trainer.max_steps={IMAGE_STEPS}"]
        settings = load_settings(PAYLOAD / "config/synthetic.yaml", changes)
        loaders = build_training_loaders(settings)
        model = __import__("builders").build_model(settings, loaders["train"].dataset)
    if kind == "by hand":
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        last_step = min(IMAGE_STEPS, loaders["train"].steps_per_epoch)
        for step in loaders["train"].steps(0, last_step):
            (batch,) = step.batches
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch["input"])
            nn.functional.cross_entropy(logits.float(), batch["target"]).backward()
            optimizer.step()
            optimizer.zero_grad()
    else:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "checkpoints").mkdir()
            Classifier(
                settings=settings,
                model=model,
                loaders=loaders,
                run=Path(folder),
                **settings.trainer.arguments,
            ).fit()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


CASES: dict[str, dict[str, int]] = {
    "10,000 samples": {},
    "1,000,000 samples": {"samples": 10**6},
    "100,000,000 samples": {"samples": 10**8},
    "1,000,000,000 samples": {"samples": 10**9},
    "after 1,000,000 steps": {"begin": 10**6},
    "20 more logged scalars": {"scalars": 20},
}


def main() -> None:
    """Prints two tables."""
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, case in CASES.items():
            times[name].append(step_time(**case))
    print(f"{'one step of a tiny network':32s}    µs     ratio   min - max")
    for name, found in times.items():
        pairs = zip(found, times["10,000 samples"], strict=True)
        ratios = [one / base for one, base in pairs]
        print(
            f"{name:32s} {statistics.median(found):5.0f}  {statistics.median(ratios):8.2f}  "
            f"{min(ratios):.2f} - {max(ratios):.2f}"
        )
    few, many = (500, 1_000) if QUICK else (10_000, 100_000)
    hand, ours = peak("by hand"), peak("ours")
    print(f"\npeak memory: by hand {hand:.0f} MB, torch-template {ours:.0f} MB", end=" ")
    print(f"({ours - hand:+.0f} MB; at most +60)")
    first, last = peak("points", few), peak("points", many)
    print(f"100 epochs, {few} steps in total: {first:.0f} MB; {many} steps: {last:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1], int(sys.argv[2]))
    else:
        main()
