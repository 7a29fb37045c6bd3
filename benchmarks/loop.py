"""What a training loop costs: microseconds a step over a loop written by hand, ours and others'.

All train the same network on the same batches (indexed from a tensor) with the same optimizer (SGD
with momentum, fused), learning rates and seed, in one process on one thread, in turn. Ours runs
with its defaults: loss and accuracy logged, a progress bar, metrics.csv and TensorBoard,
checkpoints, signals, NaN watched. Bars are drawn on what says that it is a terminal.
What is printed is the median over the rounds of the steps between the first and the last fifty,
and the medians of what each round's is over its bare loop, and of its share of that. One more bare
loop has the optimizer that torch takes by default, which is not fused.
The peers are those of benchmarks/requirements.txt that are installed; they take part in the first
nine of 25 rounds.
"""

# mypy: disable-error-code="import-not-found, misc, no-untyped-call"
# (it takes the payload's modules as they are run, and torch's untyped methods)

import importlib.util
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PAYLOAD))

from base.base_dataset import BaseDataset  # noqa: E402
from base.base_model import BaseModel  # noqa: E402
from base.batch_loader import BatchLoader, Step  # noqa: E402
from config.loading import load_settings  # noqa: E402
from trainer.classifier import Classifier  # noqa: E402

BATCH, EDGE = 64, 50  # EDGE: steps at either end that are not timed
PEER_ROUNDS = 9  # they are slow, and far from the bare loop
SIZES = {"tiny (20-32-10)": (20, 32), "MLP (784-512-512-10)": (784, 512)}
Batches = Iterator[tuple[Tensor, Tensor]]


class Points(BaseDataset):
    """Random inputs and classes, in memory."""

    title = "points"
    classes = tuple("0123456789")
    in_memory = True
    uses_global_rng = False

    def __init__(self, count: int, width: int) -> None:
        draws = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(count, width, generator=draws)
        self.targets = torch.randint(10, (count,), generator=draws)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self.inputs[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> dict[str, Tensor]:
        return {"input": self.inputs[indices], "target": self.targets[indices]}


class Net(BaseModel):
    """Two layers, or three."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        more = [nn.Linear(width, width), nn.ReLU()] if width > 100 else []
        first, last = nn.Linear(inputs, width), nn.Linear(width, 10)
        self.layers = nn.Sequential(first, nn.ReLU(), *more, last)

    def forward(self, input: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.layers(input)
        return logits


class Terminal(StringIO):
    """Takes what is printed, as a terminal, without which ours draws no progress bar."""

    def isatty(self) -> bool:
        """It is."""
        return True


class Clock:
    """Notes when the first and the last timed step begin."""

    def __init__(self, steps: int) -> None:
        self.step, self.steps, self.times = 0, steps, [0.0, 0.0]

    def tick(self) -> None:
        """To be called once a step."""
        if self.step in (EDGE, self.steps - EDGE):
            self.times[self.step > EDGE] = time.perf_counter()
        self.step += 1

    def microseconds(self) -> float:
        """Of one step."""
        return (self.times[1] - self.times[0]) / (self.steps - 2 * EDGE) * 1e6


class Setting:
    """What all loops are given."""

    def __init__(self, inputs: int, width: int, steps: int) -> None:
        self.data, self.steps = Points(BATCH * steps, inputs), steps
        self.make = partial(Net, inputs, width)

    def start(self, fused: bool | None = True) -> tuple[Clock, BaseModel, SGD]:
        """A clock, a network and its optimizer."""
        torch.manual_seed(0)
        model = self.make()
        optimizer = SGD(model.parameters(), 0.01, momentum=0.9, fused=fused)
        return Clock(self.steps), model, optimizer

    def rate(self, step: int) -> float:
        """Down from 0.01 in a line."""
        return 0.01 * (1 - step / self.steps)

    def batches(self) -> Batches:
        """One epoch in random order, as a person would write it."""
        order = torch.randperm(len(self.data))
        for indices in order.split(BATCH):
            yield self.data.inputs[indices], self.data.targets[indices]


def bare(setting: Setting, summed: bool = False, fused: bool | None = True) -> float:
    """The loop that a person would write."""
    clock, model, optimizer = setting.start(fused)
    total = torch.zeros(())
    for step, (inputs, target) in enumerate(setting.batches()):
        clock.tick()
        optimizer.param_groups[0]["lr"] = setting.rate(step)
        loss = cross_entropy(model(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if summed:
            total += loss.detach()
    return clock.microseconds()


def ours(setting: Setting) -> float:
    """The generated project's trainer, with its defaults."""
    clock, model, _ = setting.start()

    class Timed(Classifier):
        def update(self, step: Step) -> Any:
            clock.tick()
            return super().update(step)

    changes = ["device=cpu", f"data.batch_size={BATCH}", "trainer.epochs=1", "optimizer.lr=0.01"]
    changes += ["trainer.precision=fp32", "trainer.label_smoothing=0"]
    changes += ["optimizer={name: SGD, lr: 0.01}", "scheduler={name: one_cycle, warmup: 0}"]
    settings = load_settings(PAYLOAD / "config/synthetic.yaml", changes)
    validation = Points(BATCH, setting.data.inputs.shape[1])
    loaders = {"train": BatchLoader(setting.data, BATCH, 0)}
    loaders["validation"] = BatchLoader(validation, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoints").mkdir()
        Timed(settings=settings, model=model, loaders=loaders, run=Path(folder)).fit()
    return clock.microseconds()


def ignite(setting: Setting, bar: bool = False, ready: bool = False) -> float:
    """Ignite's engine: with a step of one's own, or its ready-made one, or that and a bar."""
    engine = importlib.import_module("ignite.engine")
    clock, model, optimizer = setting.start()

    def step(_: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    supervised = engine.create_supervised_trainer
    trainer = supervised(model, optimizer, cross_entropy) if ready else engine.Engine(step)
    if bar:
        importlib.import_module("ignite.handlers").ProgressBar().attach(
            trainer, output_transform=lambda loss: {"loss": loss}
        )

    def begin(engine: Any) -> None:
        clock.tick()
        optimizer.param_groups[0]["lr"] = setting.rate(engine.state.iteration)

    trainer.add_event_handler(engine.Events.ITERATION_STARTED, begin)
    trainer.run(setting.batches(), max_epochs=1, epoch_length=setting.steps)
    return clock.microseconds()


def accelerate(setting: Setting, full: bool = False) -> float:
    """Accelerate's loop: prepared, or with `accumulate` and gathered losses too."""
    clock, model, optimizer = setting.start()
    helper = importlib.import_module("accelerate").Accelerator(cpu=True)
    net, optimizer = helper.prepare(model, optimizer)

    def step(inputs: Tensor, target: Tensor) -> None:
        loss = cross_entropy(net(inputs), target)
        optimizer.zero_grad()
        helper.backward(loss)
        optimizer.step()
        if full:
            helper.gather_for_metrics(loss.detach())

    for number, (inputs, target) in enumerate(setting.batches()):
        clock.tick()
        optimizer.param_groups[0]["lr"] = setting.rate(number)
        if full:
            with helper.accumulate(net):
                step(inputs, target)
        else:
            step(inputs, target)
    return clock.microseconds()


def lightning(setting: Setting, defaults: bool = False, log: bool = False) -> float:
    """Lightning's trainer: all off, or with its defaults, or those and one logged metric."""
    library = importlib.import_module("lightning")
    clock, model, optimizer = setting.start()

    class Module(library.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            clock.tick()
            optimizer.param_groups[0]["lr"] = setting.rate(number)
            loss = cross_entropy(self.model(batch[0]), batch[1])
            if log:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> SGD:
            return optimizer

    class Data(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Batches:
            return setting.batches()

    options = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = library.Trainer(
            accelerator="cpu",
            max_steps=setting.steps,
            default_root_dir=folder,
            **({} if defaults else options),
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(Data(), batch_size=None))
    return clock.microseconds()


LOOPS: dict[str, tuple[str, Callable[[Setting], float]]] = {
    "bare loop": ("torch", bare),
    "torch-template, defaults": ("torch", ours),  # the next to it in time
    "bare loop, default optimizer": ("torch", partial(bare, fused=None)),
    "bare loop, loss summed": ("torch", partial(bare, summed=True)),
    "Ignite Engine": ("ignite", ignite),
    "Ignite supervised trainer": ("ignite", partial(ignite, ready=True)),
    "Ignite with progress bar": ("ignite", partial(ignite, ready=True, bar=True)),
    "Accelerate": ("accelerate", accelerate),
    "Accelerate, accumulate and gather": ("accelerate", partial(accelerate, full=True)),
    "Lightning, all off": ("lightning", lightning),
    "Lightning, defaults": ("lightning", partial(lightning, defaults=True)),
    "Lightning, one logged metric": ("lightning", partial(lightning, defaults=True, log=True)),
}


def measure(rounds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Microseconds a step of each loop in each round, by network and loop."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, (inputs, width) in SIZES.items():
        setting = Setting(inputs, width, steps)
        loops = {k: f for k, (needs, f) in LOOPS.items() if importlib.util.find_spec(needs)}
        found[name] = {loop: [] for loop in loops}
        for number in range(rounds):  # there and back, as the machine's speed drifts
            for loop in [*loops][:: 1 if number % 2 == 0 else -1]:
                if LOOPS[loop][0] == "torch" or number < PEER_ROUNDS:
                    found[name][loop].append(loops[loop](setting))
    return found


def main() -> None:
    """Prints a table for each network."""
    quick = bool(os.environ.get("QUICK"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning", "ignite"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with redirect_stdout(StringIO()), redirect_stderr(Terminal()):  # of all loops
        found = measure(rounds=1 if quick else 25, steps=200)
    for name, loops in found.items():
        print(f"\n{name}, batch {BATCH}: µs a step, over the bare loop, share of its throughput")
        for loop, times in loops.items():
            pairs = list(zip(times, loops["bare loop"], strict=False))
            over = statistics.median(time - base for time, base in pairs)
            share = statistics.median(base / time for time, base in pairs)
            print(f"{loop:36s} {statistics.median(times):8.1f} {over:+8.1f} {share:8.3f}")


if __name__ == "__main__":
    main()
