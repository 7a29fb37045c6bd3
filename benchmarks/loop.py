"""The cost of training loops: time per step of this template and of other libraries.

All loops train the same network on the same batches (indexed from a tensor) with the same optimizer
(SGD with momentum, fused), learning rates and seed, in one process with one thread. The template
has its default settings: it logs loss and accuracy, shows a progress bar, writes metrics.csv,
TensorBoard and checkpoints, handles signals, and checks for non-finite values. Progress bars are
drawn on a simulated terminal.
The loops alternate, and the first and last fifty steps of each round are not timed. The columns are
the median time per step over the rounds, the median difference to the bare loop of the same round,
and the median, lowest and highest ratio of their throughputs. One more bare loop has torch's
default optimizer, which is not fused. The other libraries are those of benchmarks/requirements.txt
that are installed; they are measured in the first nine of 25 rounds.
"""

# mypy: disable-error-code="import-not-found, misc, no-untyped-call"
# (the payload's modules are imported at run time; some methods of torch are untyped)

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

BATCH = 64
UNTIMED_STEPS = 50  # at the start, and as many at the end
PEER_ROUNDS = 9  # fewer suffice: other libraries differ from the bare loop by more than the noise
# Inputs, width, and steps of a measurement: half a second, as the speed of the machine changes.
SIZES = {"tiny (20-32-10)": (20, 32, 1_500), "MLP (784-512-512-10)": (784, 512, 200)}
Batches = Iterator[tuple[Tensor, Tensor]]


class Points(BaseDataset):
    """Random inputs and classes, in memory."""

    title = "points"
    classes = tuple("0123456789")
    in_memory = True
    uses_global_rng = False

    def __init__(self, count: int, width: int) -> None:
        rng = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(count, width, generator=rng)
        self.targets = torch.randint(10, (count,), generator=rng)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self.inputs[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> dict[str, Tensor]:
        return {"input": self.inputs[indices], "target": self.targets[indices]}


class Net(BaseModel):
    """A network with one hidden layer, or two if they are wide."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        more = [nn.Linear(width, width), nn.ReLU()] if width > 100 else []
        first = nn.Linear(inputs, width)
        last = nn.Linear(width, 10)
        self.layers = nn.Sequential(first, nn.ReLU(), *more, last)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the logits."""
        logits: Tensor = self.layers(input)
        return logits


class Terminal(StringIO):
    """Captures output like a terminal; without one, progress bars are not drawn."""

    def isatty(self) -> bool:
        """Returns True."""
        return True


class Clock:
    """Records the start of the first and the end of the last timed step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.step = 0
        self.start = 0.0
        self.end = 0.0

    def tick(self) -> None:
        """Must be called at the start of each step."""
        if self.step == UNTIMED_STEPS:
            self.start = time.perf_counter()
        elif self.step == self.steps - UNTIMED_STEPS:
            self.end = time.perf_counter()
        self.step += 1

    def microseconds(self) -> float:
        """Returns the mean time of a timed step."""
        return (self.end - self.start) / (self.steps - 2 * UNTIMED_STEPS) * 1e6


class Setting:
    """The data, network, optimizer and learning rates that all loops share."""

    def __init__(self, inputs: int, width: int, steps: int) -> None:
        self.steps = steps
        self.data = Points(BATCH * steps, inputs)
        self.make = partial(Net, inputs, width)

    def start(self, fused: bool | None = True) -> tuple[Clock, BaseModel, SGD]:
        """Returns a clock, a network and its optimizer."""
        torch.manual_seed(0)
        model = self.make()
        optimizer = SGD(model.parameters(), 0.01, momentum=0.9, fused=fused)
        return Clock(self.steps), model, optimizer

    def rate(self, step: int) -> float:
        """Returns the learning rate, which decays linearly from 0.01."""
        return 0.01 * (1 - step / self.steps)

    def batches(self) -> Batches:
        """Yields the batches of one epoch in random order."""
        order = torch.randperm(len(self.data))
        for indices in order.split(BATCH):
            yield self.data.inputs[indices], self.data.targets[indices]


def bare(setting: Setting, summed: bool = False, fused: bool | None = True) -> float:
    """The hand-written loop."""
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
    """The template's trainer with its default settings."""
    clock, model, _ = setting.start()

    class Timed(Classifier):
        def update(self, step: Step) -> Any:
            clock.tick()
            return super().update(step)

    changes = ["device=cpu", f"data.batch_size={BATCH}", "trainer.epochs=1", "optimizer.lr=0.01"]
    changes += ["trainer.precision=fp32", "loss.label_smoothing=0"]
    changes += ["optimizer={name: SGD, lr: 0.01, momentum: 0.9}"]
    changes += ["scheduler={name: linear}"]
    settings = load_settings(PAYLOAD / "config/synthetic.yaml", changes)
    validation = Points(BATCH, setting.data.inputs.shape[1])
    loaders = {"train": BatchLoader(setting.data, BATCH, 0)}
    loaders["validation"] = BatchLoader(validation, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoints").mkdir()
        Timed(
            settings=settings,
            model=model,
            loaders=loaders,
            run=Path(folder),
            **settings.trainer.arguments,
        ).fit()
    return clock.microseconds()


def ignite(setting: Setting, bar: bool = False, ready: bool = False) -> float:
    """Ignite's engine with a custom step or with its supervised trainer, and a progress bar."""
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
    """Accelerate: a prepared loop, or one with `accumulate` and gathered losses as well."""
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
    """Lightning's trainer: everything off, the defaults, or the defaults and a logged metric."""
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
    "torch-template, defaults": ("torch", ours),  # measured right after the bare loop
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


def measure(rounds: int, quick: bool) -> dict[str, dict[str, list[float]]]:
    """Returns microseconds per step of each round, by network and loop."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, (inputs, width, steps) in SIZES.items():
        setting = Setting(inputs, width, 200 if quick else steps)
        loops = {k: f for k, (needs, f) in LOOPS.items() if importlib.util.find_spec(needs)}
        found[name] = {loop: [] for loop in loops}
        for number in range(rounds):
            order = list(loops)
            if number % 2 == 1:  # alternate the direction, since the machine's speed drifts
                order.reverse()
            for loop in order:
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
    with redirect_stdout(StringIO()), redirect_stderr(Terminal()):  # progress bars and messages
        found = measure(1 if quick else 25, quick)
    for name, loops in found.items():
        columns = "µs per step, difference to the bare loop, ratio of throughputs (min - max)"
        print(f"\n{name}, batch {BATCH}: {columns}")
        for loop, times in loops.items():
            pairs = list(zip(times, loops["bare loop"], strict=False))
            over = statistics.median(time - base for time, base in pairs)
            shares = [base / time for time, base in pairs]
            print(
                f"{loop:36s} {statistics.median(times):8.1f} {over:+8.1f} "
                f"{statistics.median(shares):8.3f}  {min(shares):.3f} - {max(shares):.3f}"
            )


if __name__ == "__main__":
    main()
