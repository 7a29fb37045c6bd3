"""The predictions of docs/scaling.md: the time of a step on 1 to 1,024 H100s.

    python benchmarks/scaling_model.py [PICTURE.png]

Prints the tables of docs/scaling.md as Markdown and plots its picture. docs/scaling.md explains the
model and the sources of its numbers.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

# An H100 SXM.
PEAK_FLOPS = 989e12  # bf16 operations/s
MEMORY_BANDWIDTH = 3.35e12  # bytes/s
MEMORY_SIZE = 80e9  # bytes

PEAK_FRACTION = 0.42  # measured by MosaicML for a network of 1.3 billion parameters
LINK_FRACTION = 0.8  # NCCL assumes 360 of NVLink's 450 GB/s
DEVICES_PER_MACHINE = 8
BUCKET_SIZE = 25 * 2**20  # bytes of gradients in one all-reduce of DistributedDataParallel
LAUNCH_TIME = 5e-6  # seconds of the host for an operator; assumed
DISK_BANDWIDTH = 2e9  # bytes/s of checkpoints; assumed

# Latencies in seconds for NCCL's protocols LL, LL128 and Simple (src/tuning/cost_model.cc).
BASE = {"tree": (6.8e-6, 14e-6, 8.4e-6), "ring": (6.6e-6, 14e-6, 8.4e-6)}
HOPS = {
    ("tree", "nvlink"): (0.6e-6, 1.25e-6, 4.0e-6),
    ("ring", "nvlink"): (0.6e-6, 1.9e-6, 3.4e-6),
    ("tree", "pci"): (1.0e-6, math.inf, 4.0e-6),  # PCIe has no LL128
    ("ring", "pci"): (1.0e-6, math.inf, 5.7e-6),
    ("tree", "net"): (5.0e-6, 8.5e-6, 14.0e-6),
    ("ring", "net"): (2.7e-6, 4.0e-6, 14.0e-6),
}
MIN_RING_HOP = (1e-6, 1e-6, 3e-6)  # seconds, if the ring contains several machines
USABLE_BANDWIDTH = (0.5, 0.92, 1.0)  # fraction of the link
MAX_LL_BANDWIDTH_WITHIN = 141e9  # bytes/s of the protocol LL within a machine
MAX_LL_BANDWIDTH_BETWEEN = 35e9  # and between machines


@dataclass(frozen=True)
class Network:
    """Bandwidths in bytes/s, one way: of a device within its machine, and between machines."""

    name: str
    kind: str
    inside: float
    between: float


NETWORKS = (
    Network("NVLink, NDR", "nvlink", 450e9, 8 * 50e9),
    Network("PCIe, 100 GbE", "pci", 64e9, 12.5e9),
)


@dataclass(frozen=True)
class Decoder:
    """A decoder transformer without biases and with tied embeddings."""

    layers: int = 24
    width: int = 1792
    words: int = 50304
    tokens: int = 1024  # per sequence

    @property
    def block(self) -> int:
        """Parameters of a layer: four attention matrices, and two of four times the width."""
        return 12 * self.width**2

    @property
    def parameters(self) -> int:
        """All parameters, except for the scales of the normalisation layers (0.01 %)."""
        return self.layers * self.block + self.words * self.width

    @property
    def operations(self) -> float:
        """Operations per sequence, forward and backward."""
        attention = 12 * self.layers * self.width * self.tokens
        return self.tokens * (6.0 * self.parameters + attention)

    @property
    def activations(self) -> float:
        """Bytes per sequence (Korthikanti et al., fused attention), with logits three times."""
        return self.tokens * (34.0 * self.layers * self.width + 10 * self.words)


def collective(
    network: Network, devices: int, amount: float, passes: int, alone: bool = False
) -> float:
    """Returns the seconds of a collective in NCCL's cost model, with the fastest protocol.

    Args:
        network: the links.
        devices: the number of devices.
        amount: bytes.
        passes: 2 for an all-reduce, which can use trees; 1 for an all-gather or reduce-scatter.
        alone: each device is in another machine and has an eighth of that machine's links.
    """
    if devices == 1:
        return 0.0
    within = 1 if alone else min(devices, DEVICES_PER_MACHINE)
    machines = math.ceil(devices / within)
    outside = network.between / (DEVICES_PER_MACHINE if alone else 1)
    bus = LINK_FRACTION * (network.inside if machines == 1 else min(network.inside, outside))
    max_ll_bandwidth = MAX_LL_BANDWIDTH_WITHIN if machines == 1 else MAX_LL_BANDWIDTH_BETWEEN
    found = []
    for shape in ("ring", "tree")[:passes]:
        for k in range(3):
            inner = HOPS[shape, network.kind][k]
            outer = HOPS[shape, "net"][k]
            if shape == "tree":
                hops = 2 * ((within - 1) * inner + math.log2(machines) * outer)
            else:
                inner = max(inner, MIN_RING_HOP[k]) if machines > 1 else inner
                hops = passes * ((devices - machines) * inner + (machines - 1) * outer)
            if math.isfinite(inner):
                rate = USABLE_BANDWIDTH[k] * bus
                if k == 0:  # the protocol LL
                    rate = min(rate, max_ll_bandwidth)
                sent = passes * (devices - 1) / devices * amount
                found.append(BASE[shape][k] + hops + sent / rate)
    return min(found)


def computing(model: Decoder, sequences: float) -> float:
    """Returns the seconds of the forward and the backward pass."""
    return sequences * model.operations / (PEAK_FLOPS * PEAK_FRACTION)


def ddp(
    model: Decoder, network: Network, devices: int, sequences: float, size: float = BUCKET_SIZE
) -> float:
    """Returns the seconds of a step of DDP; the backward pass hides all buckets but the last."""
    count = math.ceil(4 * model.parameters / size)
    bucket = collective(network, devices, 4 * model.parameters / count, 2)
    compute_time = computing(model, sequences)
    backward = max(2 / 3 * compute_time, (count - 1) * bucket) + bucket
    return compute_time / 3 + backward + 28 * model.parameters / MEMORY_BANDWIDTH


def fsdp(
    model: Decoder, network: Network, devices: int, sequences: float, hybrid: bool = False
) -> float:
    """Returns the seconds of a step of FSDP, which gathers a block while the previous one computes.

    With `hybrid`, parameters are sharded within a machine, and machines all-reduce the gradients.
    """
    group = min(devices, DEVICES_PER_MACHINE) if hybrid else devices
    blocks = [model.block] * model.layers + [model.words * model.width]
    gathers = [collective(network, group, 2 * size, 1) for size in blocks]
    scatters = [collective(network, group, 4 * size, 1) for size in blocks]
    if hybrid and devices > DEVICES_PER_MACHINE:
        for k, size in enumerate(blocks):
            scatters[k] += collective(network, devices // group, 4 * size / group, 2, alone=True)
    compute_time = computing(model, sequences)
    forward = max(compute_time / 3, sum(gathers) - gathers[-1]) + gathers[-1]
    rest = sum(gathers) + sum(scatters) - scatters[-1]
    backward = max(2 / 3 * compute_time, rest) + scatters[-1]
    return forward + backward + 28 * model.parameters / group / MEMORY_BANDWIDTH


WAYS: dict[str, Callable[[Decoder, Network, int, float], float]] = {
    "DDP": ddp,
    "FSDP": fsdp,
    "HSDP": partial(fsdp, hybrid=True),
}
DEVICES = (1, 8, 64, 1024)


def memory(model: Decoder, devices: int) -> tuple[float, float]:
    """Returns the bytes per device of DDP and FSDP with AdamW, without activations.

    FSDP stores two gathered blocks and the embedding (bf16), and the gradients of one (float32).
    """
    embedding = model.words * model.width
    gathered = 2 * (2 * model.block + embedding) + 4 * max(model.block, embedding)
    kept = 16.0 * model.parameters / devices
    return 18.0 * model.parameters, kept + (gathered if devices > 1 else 2 * model.parameters)


def small_network(network: Network, devices: int, samples: float) -> list[float]:
    """Returns seconds of a step of the default network: arithmetic, launches, collectives, all."""
    arithmetic = samples * 9_291_840 / (PEAK_FLOPS * PEAK_FRACTION)
    launches = 126 * LAUNCH_TIME
    gather = partial(collective, network, devices, passes=1)
    reduce = partial(collective, network, devices, passes=2)
    collectives = 4 * gather(4 * 65 * devices) + 4 * reduce(4 * 64)  # batch normalisation
    collectives += gather(2184) + gather(32) + reduce(4 * 70_730)  # buffers, gradients
    return [arithmetic, launches, collectives, max(arithmetic, launches) + collectives]


def table(*header: str) -> None:
    """Prints the header of a Markdown table."""
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")


def row(*cells: object) -> None:
    """Prints a row of a Markdown table."""
    print(f"| {' | '.join(f'{c:,}' if isinstance(c, int) else str(c) for c in cells)} |")


def seconds(value: float) -> str:
    """Formats a time with three significant digits and its unit."""
    if value < 1e-3:
        number = 1e6 * value
        unit = "µs"
    elif value < 1:
        number = 1e3 * value
        unit = "ms"
    else:
        number = value
        unit = "s"
    decimals = 0
    if number > 0:
        decimals = max(0, 2 - math.floor(math.log10(number)))
    return f"{number:,.{decimals}f} {unit}"


def print_large_model(model: Decoder, batch: int, each: int) -> None:
    """Prints steps of the decoder with a fixed global batch, and with a fixed batch per device."""
    for share in (batch, each):
        ways = [f"{way}, {network.name}" for network in NETWORKS for way in WAYS]
        table("devices", "sequences each", "computing", *ways)
        for devices in DEVICES:
            own = share / devices if share == batch else share
            cells = []
            base = ddp(model, NETWORKS[0], 1, own) if share == each else 0.0
            for network in NETWORKS:
                for way in WAYS.values():
                    step = way(model, network, devices, own)
                    ideal = base or way(model, network, 1, batch) / devices
                    cells.append(f"{seconds(step)} ({ideal / step:.0%})")
            row(devices, f"{own:g}", seconds(computing(model, own)), *cells)


def print_default_network() -> None:
    """Prints steps of the default network."""
    table("devices", "samples each", "arithmetic", "launches", "collectives", "step", "efficiency")
    alone = small_network(NETWORKS[0], 1, 128)[3]
    for batch in (128, 0):
        for devices in DEVICES:
            own = batch / devices if batch else 128
            if own < 1:
                row(devices, "refused: fewer samples than processes", *"-----")
                continue
            times = small_network(NETWORKS[0], devices, own)
            share = alone / times[3] / (devices if batch else 1)
            row(devices, f"{own:g}", *map(seconds, times), f"{share:.0%}")


def print_limits(model: Decoder, batch: int) -> None:
    """Prints memory, checkpoints, and the other limits in docs/scaling.md."""
    table("devices", "DDP, GB", "FSDP, GB", "sequences that fit", "a failure", "save every")
    for devices in DEVICES:
        whole, parts = memory(model, devices)
        fit = [math.floor((MEMORY_SIZE - used) / model.activations) for used in (whole, parts)]
        hours = 54 * 24 * 16384 / 419 / devices
        minutes = math.sqrt(2 * 12 * model.parameters / DISK_BANDWIDTH * 3600 * hours) / 60
        sizes = [f"{whole / 1e9:.1f}", f"{parts / 1e9:.1f}"]
        row(devices, *sizes, f"{fit[0]}, {fit[1]}", f"every {hours:,.0f} h", f"{minutes:.0f} min")
    print(
        "\nmaximum latency of a hop if the stop flag's all-reduce takes as long as a step of DDP:"
    )
    for devices in DEVICES[1:]:
        hop = ddp(model, NETWORKS[0], devices, batch / devices) / (2 * (devices - 1))
        print(f"{devices:,} devices: {seconds(hop)}")
    sent = 4 * model.layers * collective(NETWORKS[0], 8, 2 * 16 * model.tokens * model.width, 2)
    print(f"tensor parallelism over 8, 16 sequences: {seconds(sent)} of collectives per step")
    theirs = replace(model, width=2048, words=50368, tokens=2048)
    steps = [fsdp(theirs, NETWORKS[0], devices, 20) for devices in (16, 64)]
    print(f"MosaicML's network, speed on 64 devices relative to 16: {steps[0] / steps[1]:.3f}")
    for size in (BUCKET_SIZE, 10 * BUCKET_SIZE):
        step = ddp(model, NETWORKS[0], 1024, batch / 1024, size)
        print(f"DDP on 1,024 devices, buckets of {size / 2**20:.0f} MiB: {seconds(step)}")


def draw(model: Decoder, batch: int, path: str) -> None:
    """Plots the efficiency with a fixed global batch."""
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = [2**k for k in range(11)]
    for network, style in zip(NETWORKS, ("-", "--"), strict=True):
        for (name, way), colour in zip(WAYS.items(), ("C0", "C1", "C2"), strict=True):
            ideal = way(model, network, 1, batch)
            values = [ideal / n / way(model, network, n, batch / n) for n in counts]
            axes.plot(counts, values, style, color=colour, label=f"{name}, {network.name}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{n:,}" for n in counts])
    axes.set(xlabel="devices", ylabel="efficiency", ylim=(0, 1.05))
    axes.set_title(f"{model.parameters / 1e9:.2f} billion parameters, {batch:,} sequences per step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=90)


def main() -> None:
    """Prints the tables and plots the picture."""
    model, batch, each = Decoder(), 1024, 16
    token, step = model.operations / model.tokens, batch * model.operations
    print(
        f"{model.parameters:,} parameters; operations: {token:.3g} per token, {step:.3g} per step;"
    )
    print(f"activations: {model.activations / 1e9:.2f} GB per sequence")
    print_large_model(model, batch, each)
    print_default_network()
    print_limits(model, batch)
    if sys.argv[1:]:
        draw(model, batch, sys.argv[1])


if __name__ == "__main__":
    main()
