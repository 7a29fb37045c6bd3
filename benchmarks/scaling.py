"""The time of a step in 1 to 8 processes on this machine, compared with docs/scaling.md.

    python benchmarks/scaling.py [KEY=VALUE ...]    for example trainer.strategy=fsdp
    python benchmarks/scaling.py --count            the operations of one step

The parameters of the model are measured alternately with the steps:

- an all-reduce of gloo by its size, which gives the latency alpha and the time per byte beta;
- a small all-reduce after a millisecond of computation, where processes wait for the slowest one;
- a step of one process with the whole batch, and with the part of the batch that one of several
  processes has, with the batch normalisation of several processes.

torch's profiler counts the collectives of a step. Predicted: the computation, times the processes
per core, plus the collectives. The best case uses alpha and hides the gradients behind the backward
pass; the worst case uses the latency after computation and hides nothing. Measured: the time
between two steps of the template's trainer. Each process has one thread. The tables show medians
over the steps, then over the rounds, with the lowest and the highest round. The bytes are those
that the first process stores.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"
# (the payload's modules are imported at run time)

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PAYLOAD))

from builders import build_model, build_trainer, build_training_loaders  # noqa: E402
from config.loading import load_settings  # noqa: E402
from utils.batch_norm import synchronize_batch_norm  # noqa: E402
from utils.parallel import local_tensor  # noqa: E402
from utils.process_group import (  # noqa: E402
    all_reduce_sum,
    destroy_process_group,
    initialize_process_group,
)
from utils.ranks import is_main_process, world_size  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 1 if QUICK else 3
WARM_UP_STEPS = 10 if QUICK else 20
STEPS = 20 if QUICK else 60
PROCESSES = (1, 2, 4, 8)
BATCH = 128
SIZES = (4, 260, 2**15, 2**18, 2**20, 2**22, 2**24)  # bytes
SGD = "optimizer={name: SGD, lr: 0.2, momentum: 0.9, weight_decay: 5e-4, nesterov: true}"
MODELS = {  # settings file and changes: the default network, and one with large gradients
    "default network": ("fashion_mnist", ["data.name=synthetic.Synthetic", SGD]),
    "MLP 784-2048-2048-10": ("synthetic", ["model.name=networks.MLP", "model.width=2048"]),
}
ALWAYS = ["device=cpu", "data.workers=0", "logger.tensorboard=false", "trainer.epochs=99"]
BACKWARD = 2 / 3  # of the computation: two matrix products for each one of the forward pass
# Passed in addition to the settings: one process uses the batch normalisation of several.
SHARED = "synchronize batch norm"
Found = dict[str, Any]


# In the measured processes.


def build(settings: Any, run: Path) -> Any:
    """Builds the trainer that the settings name."""
    loaders = build_training_loaders(settings)
    model = build_model(settings, loaders["train"].dataset)
    (run / "checkpoints").mkdir(exist_ok=True)
    return build_trainer(settings, model, loaders, run)


def kept_bytes(trainer: Any) -> tuple[int, int]:
    """Returns the bytes of parameters and of optimizer state that this process stores."""
    parameter_bytes = 0
    state_bytes = 0
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter_bytes += local_bytes(parameter)
                state_bytes += sum(map(local_bytes, optimizer.state[parameter].values()))
    return parameter_bytes, state_bytes


def local_bytes(value: Any) -> int:
    """Returns the bytes of a tensor, or of the local shard of a DTensor; 0 for other values."""
    if not isinstance(value, Tensor):
        return 0
    return local_tensor(value).nbytes


def train(file: str, changes: list[str], folder: Path) -> Found:
    """Trains with the project's loop; returns seconds and collectives per step, and bytes."""
    overrides = [text for text in changes if text != SHARED]
    settings = load_settings(PAYLOAD / f"config/{file}.yaml", [*ALWAYS, *overrides])
    initialize_process_group(torch.device("cpu"))
    trainer = build(settings, folder)
    if SHARED in changes:
        synchronize_batch_norm(trainer.model, torch.device("cpu"))
    update = trainer.update
    ticks: list[float] = []
    traced = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def timed(step: Any) -> Any:
        ticks.append(time.perf_counter())
        if len(ticks) == WARM_UP_STEPS - 1:
            with traced:
                return update(step)
        return update(step)

    trainer.update = timed
    trainer.fit()
    destroy_process_group()
    times = [b - a for a, b in zip(ticks[WARM_UP_STEPS:], ticks[WARM_UP_STEPS + 1 :], strict=False)]
    collectives = []
    for event in traced.events():
        if event.name.startswith("gloo:"):  # the event of a gather names the shape of one part
            parts = world_size() if "gather" in event.name else 1
            size = parts * max(map(prod, event.input_shapes), default=0)
            collectives.append((event.name.removeprefix("gloo:"), size))
    kept, state = kept_bytes(trainer)
    step = statistics.median(times)
    return {"step": step, "collectives": collectives, "own": kept, "state": state}


def exchange() -> Found:
    """Returns the seconds of an all-reduce by its size in bytes."""
    torch.set_num_threads(1)
    initialize_process_group(torch.device("cpu"))
    found = {}
    for size in SIZES:
        tensor = torch.ones(size // 4)
        times = []
        for _ in range(WARM_UP_STEPS if size > 2**20 else 5 * WARM_UP_STEPS):
            begun = time.perf_counter()
            all_reduce_sum([tensor.fill_(1)])
            times.append(time.perf_counter() - begun)
        found[str(size)] = statistics.median(times[2:])
    matrix = torch.ones(320, 320)
    times = []
    for _ in range(5 * WARM_UP_STEPS):
        _ = matrix @ matrix
        begun = time.perf_counter()
        all_reduce_sum([tensor[:65].fill_(1)])
        times.append(time.perf_counter() - begun)
    found["busy"] = statistics.median(times[2:])
    destroy_process_group()
    return found


def work(file: str, output: str, *changes: str) -> None:
    """Runs in each process that `start` starts; the first process writes its results."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        found = train(file, [*changes], Path(folder)) if file else exchange()
    if is_main_process():
        Path(output).write_text(json.dumps(found), encoding="utf-8")


# In the measuring process.


def start(processes: int, file: str, *changes: str) -> Found:
    """Starts processes with one thread each; returns the results of the first one."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found"
        done = subprocess.run(
            [*command, __file__, "work", file, str(output), *changes],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stdout)
        return json.loads(output.read_text(encoding="utf-8"))


def link(found: list[Found]) -> tuple[float, float, float]:
    """Returns the seconds of a small all-reduce, of one after computation, and per byte."""
    large, more = SIZES[-2:]
    beta = (middle(found, str(more)) - middle(found, str(large))) / (more - large)
    return middle(found, str(SIZES[0])), middle(found, "busy"), beta


def predict(
    computing: float, collectives: list[Any], alpha: float, busy: float, beta: float
) -> list[float]:
    """Returns best and worst time of a step; only collectives of at least 20 kB can be hidden."""
    costs = [4 * count * beta / (1 if name == "all_reduce" else 2) for name, count in collectives]
    large = [cost for cost in costs if cost >= 20_000 * beta / 2]
    small = sum(costs) - sum(large)
    small_count = len(collectives) - len(large)
    not_hidden = max(0, sum(large) + len(large) * alpha - BACKWARD * computing)
    best = computing + small + small_count * alpha + not_hidden
    worst = computing + small + len(collectives) * busy + sum(large)
    return [best, worst]


def measure(changes: list[str]) -> dict[str, list[Found]]:
    """Returns the results of each round by the name of the measurement."""
    jobs: dict[str, tuple[Any, ...]] = {}
    for world in PROCESSES[1:]:
        jobs[f"gloo {world}"] = (world, "")
    alone = [text for text in changes if not text.startswith("trainer.strategy")]
    for name, (file, own) in MODELS.items():
        for world in PROCESSES:
            steps = f"trainer.max_steps={WARM_UP_STEPS + STEPS}"
            part = f"data.batch_size={BATCH // world}"
            jobs[f"{name} part {world}"] = (1, file, *own, steps, *alone, part)
            if world > 1:
                jobs[f"{name} part {world}"] += (SHARED,)
                batch = f"data.batch_size={BATCH}"
                jobs[f"{name} {world}"] = (world, file, *own, steps, *changes, batch)
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    for number in range(ROUNDS):
        for name, job in jobs.items():
            found[name].append(start(*job))
        print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    return found


def middle(found: list[Found], key: str) -> float:
    """Returns the median over the rounds."""
    return statistics.median(float(each[key]) for each in found)


def milliseconds(found: list[Found], key: str) -> str:
    """Returns the median, lowest and highest milliseconds over the rounds, as text."""
    values = [1000 * float(each[key]) for each in found]
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def table(*header: str) -> None:
    """Prints the header of a Markdown table."""
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")


def row(*cells: object) -> None:
    """Prints a row of a Markdown table."""
    print(f"| {' | '.join(f'{c:,}' if isinstance(c, int) else str(c) for c in cells)} |")


def print_tables(found: dict[str, list[Found]]) -> None:
    """Prints three tables."""
    cores = os.cpu_count() or 1
    links = {}
    table("gloo, processes", "alpha, µs", "between computing, µs", "beta, ns/byte", "GB/s one way")
    for world in PROCESSES[1:]:
        alpha, busy, beta = links[world] = link(found[f"gloo {world}"])
        rate = 2 * (world - 1) / world / beta / 1e9
        row(world, f"{1e6 * alpha:.0f}", f"{1e6 * busy:.0f}", f"{1e9 * beta:.2f}", f"{rate:.1f}")
    table("ms a step", "processes", "alone", "predicted", "measured", "collectives", "MB")
    for name in MODELS:
        for world in PROCESSES:
            part = found[f"{name} part {world}"]
            whole = found[f"{name} {world}"] if world > 1 else part
            computing = middle(part, "step") * max(1, world / cores)
            collectives, text = whole[0]["collectives"], f"{1000 * computing:.1f}"
            if world > 1:
                low, high = predict(computing, collectives, *links[world])
                text = f"{1000 * low:.1f}–{1000 * high:.1f}"
            alone = milliseconds(part, "step")
            measured = milliseconds(whole, "step")
            amount = f"{4e-6 * sum(count for _, count in collectives):.2f}"
            row(name, world, alone, text, measured, len(collectives), amount)
    table("bytes a process", "processes", "parameters", "gradients", "optimizer")
    for name in MODELS:
        for world in PROCESSES:
            first = found[f"{name} {world}" if world > 1 else f"{name} part 1"][0]
            row(name, world, first["own"], first["own"], first["state"])


class Operators(TorchDispatchMode):
    """Counts torch's operators except for views; each launches at least one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.count += 1
        return func(*args, **(kwargs or {}))


def count() -> None:
    """Prints the operations and the activations of a step of the default network."""
    file, changes = MODELS["default network"]
    settings = load_settings(PAYLOAD / f"config/{file}.yaml", [*ALWAYS, *changes])
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(settings, Path(folder))
    (step,) = trainer.loaders["train"].steps(0, 1)
    (batch,) = step.batches
    size = len(batch["target"])
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with FlopCounterMode(display=False) as forward, trainer.autocast(), hooks:
        loss = trainer.training_step(trainer.model, batch)["loss"]
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    with Operators() as operators:
        trainer.update(step)
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    activations = sum(amount for address, amount in saved.items() if address not in weights)
    print(f"parameters: {sum(p.numel() for p in trainer.model.parameters()):,}")
    flops = [mode.get_total_flops() / size for mode in (forward, backward)]
    print(f"operations per sample: {flops[0]:,.0f} forward, {flops[1]:,.0f} backward")
    print(f"saved for the backward pass: {activations / size:,.0f} bytes per sample")
    print(f"operators per step, except for views: {operators.count}")


def main() -> None:
    """Prints the tables or the operations."""
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    elif sys.argv[1:2] == ["--count"]:
        count()
    else:
        print_tables(measure(sys.argv[1:]))


if __name__ == "__main__":
    main()
