"""What a step takes in 1, 2 and 4 processes of this machine, and what docs/scaling.md predicts.

The model's own numbers are measured in turn with the rest: an all_reduce of gloo by its size (alpha
and beta), a small one after a millisecond of computing, where processes wait for the last of them,
and a step in one process with the whole batch, and with a process's part of it and the batch
normalisation of several processes. The exchanges of a step are counted by torch's profiler.
Predicted: the computing, times processes per core, and the exchanges; at best with alpha and the
gradients behind the backward pass, at worst with alpha between computing and nothing hidden.
Measured: the time from one step of the generated project's trainer to the next. All on one thread a
process; medians over the steps, then over the rounds, with the lowest and the highest round. The
bytes are those that the first process keeps.

python benchmarks/scaling.py --count tells the operations of a step. Settings of the project may
follow: python benchmarks/scaling.py trainer.strategy=fsdp
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"
# (it takes the payload's modules as they are run)

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
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
ROUNDS, WARM, STEPS = (1, 10, 20) if QUICK else (3, 20, 60)  # WARM: steps that are not counted
PROCESSES, BATCH = (1, 2, 4), 128
SIZES = (4, 260, 2**15, 2**18, 2**20, 2**22, 2**24)  # bytes
MODELS = {  # settings file and changes: the default network on other images, and large gradients
    "default network": ("fashion_mnist", ["data.name=synthetic.Synthetic"]),
    "MLP 784-2048-2048-10": ("synthetic", ["model.name=networks.MLP", "model.width=2048"]),
}
ALWAYS = ["device=cpu", "data.workers=0", "logger.tensorboard=false", "trainer.epochs=99"]
BACKWARD = 2 / 3  # of the computing: two products for each one of the forward pass
SHARED = "in one process, the batch normalisation of several"  # beside the settings
Found = dict[str, Any]


# In the processes that are measured.


def build(settings: Any, run: Path) -> Any:
    """The trainer that the settings name."""
    loaders = build_training_loaders(settings)
    model = build_model(settings, loaders["train"].dataset)
    (run / "checkpoints").mkdir(exist_ok=True)
    return build_trainer(settings, model, loaders, run)


def kept_bytes(trainer: Any) -> tuple[int, int]:
    """Parameters, and optimizer's state, as far as this process keeps them."""
    parts = [0, 0]
    for optimizer in trainer.optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            held = [[parameter], optimizer.state[parameter].values()]
            for k, tensors in enumerate(held):
                parts[k] += sum(local_tensor(t).nbytes for t in tensors if isinstance(t, Tensor))
    return parts[0], parts[1]


def train(file: str, changes: list[str], folder: Path) -> Found:
    """Trains by the project's own loop; seconds a step, exchanges of a step, bytes kept."""
    own = [text for text in changes if text != SHARED]
    settings = load_settings(PAYLOAD / f"config/{file}.yaml", [*ALWAYS, *own])
    initialize_process_group(torch.device("cpu"))
    trainer = build(settings, folder)
    if SHARED in changes:
        synchronize_batch_norm(trainer.model, torch.device("cpu"))
    update, ticks = trainer.update, list[float]()
    traced = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def timed(step: Any) -> Any:
        ticks.append(time.perf_counter())
        with traced if len(ticks) == WARM - 1 else nullcontext():
            return update(step)

    trainer.update = timed
    trainer.fit()
    destroy_process_group()
    times = [b - a for a, b in zip(ticks[WARM:], ticks[WARM + 1 :], strict=False)]
    exchanges = []
    for event in traced.events():
        if event.name.startswith("gloo:"):  # which has one of the parts that it gathers
            parts = world_size() if "gather" in event.name else 1
            size = parts * max(map(prod, event.input_shapes), default=0)
            exchanges.append((event.name.removeprefix("gloo:"), size))
    kept, state = kept_bytes(trainer)
    return {"step": statistics.median(times), "exchanges": exchanges, "own": kept, "state": state}


def exchange() -> Found:
    """Seconds of an all_reduce by its size in bytes."""
    torch.set_num_threads(1)
    initialize_process_group(torch.device("cpu"))
    found = {}
    for size in SIZES:
        tensor, times = torch.ones(size // 4), []
        for _ in range(WARM if size > 2**20 else 5 * WARM):
            begun = time.perf_counter()
            all_reduce_sum([tensor.fill_(1)])
            times.append(time.perf_counter() - begun)
        found[str(size)] = statistics.median(times[2:])
    matrix, times = torch.ones(320, 320), []
    for _ in range(5 * WARM):
        _ = matrix @ matrix
        begun = time.perf_counter()
        all_reduce_sum([tensor[:65].fill_(1)])
        times.append(time.perf_counter() - begun)
    found["busy"] = statistics.median(times[2:])
    destroy_process_group()
    return found


def work(file: str, output: str, *changes: str) -> None:
    """What `start` has each process do; the first one writes what it found."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        found = train(file, [*changes], Path(folder)) if file else exchange()
    if is_main_process():
        Path(output).write_text(json.dumps(found), encoding="utf-8")


# In the process that measures.


def start(processes: int, file: str, *changes: str) -> Found:
    """What processes with one thread each find."""
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
    """Seconds of a small exchange, of one between computing, and of a byte more in a large one."""
    large, more = SIZES[-2:]
    beta = (middle(found, str(more)) - middle(found, str(large))) / (more - large)
    return middle(found, str(SIZES[0])), middle(found, "busy"), beta


def predict(
    computing: float, exchanges: list[Any], alpha: float, busy: float, beta: float
) -> list[float]:
    """Seconds of a step, at best and at worst; exchanges of 20 kB and more can be hidden."""
    costs = [4 * count * beta / (1 if name == "all_reduce" else 2) for name, count in exchanges]
    large = [cost for cost in costs if cost >= 20_000 * beta / 2]
    small = sum(costs) - sum(large)
    few, many = len(exchanges) - len(large), len(large)
    seen = max(0, sum(large) + many * alpha - BACKWARD * computing)
    return [
        computing + small + few * alpha + seen,
        computing + small + len(exchanges) * busy + sum(large),
    ]


def measure(changes: list[str]) -> dict[str, list[Found]]:
    """What each round finds, by what is measured."""
    jobs: dict[str, tuple[Any, ...]] = {}
    for world in PROCESSES[1:]:
        jobs[f"gloo {world}"] = (world, "")
    alone = [text for text in changes if not text.startswith("trainer.strategy")]
    for name, (file, own) in MODELS.items():
        for world in PROCESSES:
            steps = f"trainer.max_steps={WARM + STEPS}"
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
    """The median over the rounds."""
    return statistics.median(float(each[key]) for each in found)


def spread(found: list[Found], key: str) -> str:
    """The median over the rounds, in milliseconds, with the lowest and the highest."""
    values = [1000 * float(each[key]) for each in found]
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def table(*header: str) -> None:
    """Prints the head of a table, as Markdown."""
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")


def row(*cells: object) -> None:
    """Prints a row of it."""
    print(f"| {' | '.join(f'{c:,}' if isinstance(c, int) else str(c) for c in cells)} |")


def tell(found: dict[str, list[Found]]) -> None:
    """Prints three tables."""
    cores, links = os.cpu_count() or 1, {}
    table("gloo, processes", "alpha, µs", "between computing, µs", "beta, ns/byte", "GB/s one way")
    for world in PROCESSES[1:]:
        alpha, busy, beta = links[world] = link(found[f"gloo {world}"])
        rate = 2 * (world - 1) / world / beta / 1e9
        row(world, f"{1e6 * alpha:.0f}", f"{1e6 * busy:.0f}", f"{1e9 * beta:.2f}", f"{rate:.1f}")
    table("ms a step", "processes", "alone", "predicted", "measured", "exchanges", "MB")
    for name in MODELS:
        for world in PROCESSES:
            part = found[f"{name} part {world}"]
            whole = found[f"{name} {world}"] if world > 1 else part
            computing = middle(part, "step") * max(1, world / cores)
            exchanges, text = whole[0]["exchanges"], f"{1000 * computing:.1f}"
            if world > 1:
                low, high = predict(computing, exchanges, *links[world])
                text = f"{1000 * low:.1f}–{1000 * high:.1f}"
            alone, measured = spread(part, "step"), spread(whole, "step")
            amount = f"{4e-6 * sum(count for _, count in exchanges):.2f}"
            row(name, world, alone, text, measured, len(exchanges), amount)
    table("bytes a process", "processes", "parameters", "gradients", "optimizer")
    for name in MODELS:
        for world in PROCESSES:
            first = found[f"{name} {world}" if world > 1 else f"{name} part 1"][0]
            row(name, world, first["own"], first["own"], first["state"])


class Operators(TorchDispatchMode):
    """Counts torch's operators that compute something, as each is a kernel or more on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count() -> None:
    """Prints what a step of the default network computes and keeps."""
    file, changes = MODELS["default network"]
    settings = load_settings(PAYLOAD / f"config/{file}.yaml", [*ALWAYS, *changes])
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(settings, Path(folder))
    (step,) = trainer.loaders["train"].steps(0, 1)
    (batch,) = step.batches
    size, kept = len(batch["target"]), dict[int, int]()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with FlopCounterMode(display=False) as forward, trainer.autocast(), hooks:
        loss = trainer.training_step(trainer.model, batch)["loss"]
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    with Operators() as operators:
        trainer.update(step)
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    activations = sum(amount for place, amount in kept.items() if place not in weights)
    print(f"parameters: {sum(p.numel() for p in trainer.model.parameters()):,}")
    flops = [mode.get_total_flops() / size for mode in (forward, backward)]
    print(f"operations a sample: {flops[0]:,.0f} forward, {flops[1]:,.0f} backward")
    print(f"kept for the backward pass: {activations / size:,.0f} bytes a sample")
    print(f"operators that compute, a step: {operators.count}")


def main() -> None:
    """Prints the tables, or the operations."""
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    elif sys.argv[1:2] == ["--count"]:
        count()
    else:
        tell(measure(sys.argv[1:]))


if __name__ == "__main__":
    main()
