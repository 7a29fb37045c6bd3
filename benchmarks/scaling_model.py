"""The predictions of docs/scaling.md: what a step takes on 1 to 1,024 H100s.

python benchmarks/scaling_model.py [PICTURE.png] prints its tables, as Markdown, and draws its
picture. What the numbers stand on, and where they come from, is said there.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

PEAK, MEMORY, ROOM = 989e12, 3.35e12, 80e9  # of an H100 SXM: bf16 operations/s, bytes/s, bytes
SHARE_OF_PEAK = 0.42  # measured by MosaicML for a network of 1.3 billion parameters
SHARE_OF_LINK = 0.8  # NCCL counts with 360 of NVLink's 450 GB/s
MACHINE = 8  # devices in a machine
BUCKET = 25 * 2**20  # bytes of gradients that DistributedDataParallel sends at once
LAUNCH = 5e-6  # seconds that the host needs for an operator: assumed
DISK = 2e9  # bytes/s of checkpoints: assumed

# Seconds, by NCCL's protocols LL, LL128 and Simple (src/tuning/cost_model.cc).
BASE = {"tree": (6.8e-6, 14e-6, 8.4e-6), "ring": (6.6e-6, 14e-6, 8.4e-6)}
HOPS = {
    ("tree", "nvlink"): (0.6e-6, 1.25e-6, 4.0e-6),
    ("ring", "nvlink"): (0.6e-6, 1.9e-6, 3.4e-6),
    ("tree", "pci"): (1.0e-6, math.inf, 4.0e-6),  # no LL128 there
    ("ring", "pci"): (1.0e-6, math.inf, 5.7e-6),
    ("tree", "net"): (5.0e-6, 8.5e-6, 14.0e-6),
    ("ring", "net"): (2.7e-6, 4.0e-6, 14.0e-6),
}
POSTING = (1e-6, 1e-6, 3e-6)  # the least that a ring's hop takes between machines
USABLE, LL_MOST = (
    (0.5, 0.92, 1.0),
    (141e9, 35e9),
)  # shares of the links; LL, in and between machines


@dataclass(frozen=True)
class Network:
    """Links, in bytes/s one way: of a device within its machine, of a machine to the others."""

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
    """A decoder transformer without biases, output and input embedding in one."""

    layers: int = 24
    width: int = 1792
    words: int = 50304
    tokens: int = 1024  # of a sequence

    @property
    def block(self) -> int:
        """Parameters of a layer: four matrices of attention, and two of four times the width."""
        return 12 * self.width**2

    @property
    def parameters(self) -> int:
        """All of them, but for the scales of the norms (0.01 %)."""
        return self.layers * self.block + self.words * self.width

    @property
    def operations(self) -> float:
        """Of a sequence, forward and backward."""
        attention = 12 * self.layers * self.width * self.tokens
        return self.tokens * (6.0 * self.parameters + attention)

    @property
    def activations(self) -> float:
        """Bytes of a sequence: Korthikanti et al. with fused attention; logits, three times."""
        return self.tokens * (34.0 * self.layers * self.width + 10 * self.words)


def exchange(
    network: Network, devices: int, amount: float, passes: int, alone: bool = False
) -> float:
    """Seconds of a collective by NCCL's own reckoning, with the best protocol for the amount.

    Two passes are an all-reduce, which may go along trees; one is an all-gather, a reduce-scatter.
    `alone`: each device is in another machine, and has an eighth of its machine's links.
    """
    if devices == 1:
        return 0.0
    within = 1 if alone else min(devices, MACHINE)
    machines = math.ceil(devices / within)
    outside = network.between / (MACHINE if alone else 1)
    bus = SHARE_OF_LINK * (network.inside if machines == 1 else min(network.inside, outside))
    found = []
    for shape in ("ring", "tree")[:passes]:
        for k in range(3):
            inner, outer = HOPS[shape, network.kind][k], HOPS[shape, "net"][k]
            if shape == "tree":
                hops = 2 * ((within - 1) * inner + math.log2(machines) * outer)
            else:
                inner = max(inner, POSTING[k]) if machines > 1 else inner
                hops = passes * ((devices - machines) * inner + (machines - 1) * outer)
            if math.isfinite(inner):
                rate = min(USABLE[k] * bus, LL_MOST[machines > 1] if k == 0 else math.inf)
                sent = passes * (devices - 1) / devices * amount
                found.append(BASE[shape][k] + hops + sent / rate)
    return min(found)


def computing(model: Decoder, sequences: float) -> float:
    """Seconds, forward and backward."""
    return sequences * model.operations / (PEAK * SHARE_OF_PEAK)


def ddp(
    model: Decoder, network: Network, devices: int, sequences: float, size: float = BUCKET
) -> float:
    """Seconds of a step; buckets are sent behind the backward pass, but for the last one."""
    count = math.ceil(4 * model.parameters / size)
    bucket = exchange(network, devices, 4 * model.parameters / count, 2)
    all_in_all = computing(model, sequences)
    backward = max(2 / 3 * all_in_all, (count - 1) * bucket) + bucket
    return all_in_all / 3 + backward + 28 * model.parameters / MEMORY


def fsdp(
    model: Decoder, network: Network, devices: int, sequences: float, hybrid: bool = False
) -> float:
    """Seconds of a step; a block is gathered while the one before computes.

    `hybrid`: within a machine alone; then machines exchange gradients of the parts.
    """
    group = min(devices, MACHINE) if hybrid else devices
    blocks = [model.block] * model.layers + [model.words * model.width]
    gathers = [exchange(network, group, 2 * size, 1) for size in blocks]
    scatters = [exchange(network, group, 4 * size, 1) for size in blocks]
    if hybrid and devices > MACHINE:
        for k, size in enumerate(blocks):
            scatters[k] += exchange(network, devices // group, 4 * size / group, 2, alone=True)
    all_in_all = computing(model, sequences)
    forward = max(all_in_all / 3, sum(gathers) - gathers[-1]) + gathers[-1]
    rest = sum(gathers) + sum(scatters) - scatters[-1]
    backward = max(2 / 3 * all_in_all, rest) + scatters[-1]
    return forward + backward + 28 * model.parameters / group / MEMORY


WAYS: dict[str, Callable[[Decoder, Network, int, float], float]] = {
    "DDP": ddp,
    "FSDP": fsdp,
    "HSDP": partial(fsdp, hybrid=True),
}
DEVICES = (1, 8, 64, 1024)


def memory(model: Decoder, devices: int) -> tuple[float, float]:
    """Bytes a device with AdamW, activations apart: DDP, FSDP.

    FSDP keeps two blocks and the embedding gathered (bf16), and the gradients of one (float32).
    """
    embedding = model.words * model.width
    gathered = 2 * (2 * model.block + embedding) + 4 * max(model.block, embedding)
    kept = 16.0 * model.parameters / devices
    return 18.0 * model.parameters, kept + (gathered if devices > 1 else 2 * model.parameters)


def small_network(network: Network, devices: int, samples: float) -> list[float]:
    """Seconds of the default network's step: arithmetic, launches, exchanges, all."""
    arithmetic = samples * 9_291_840 / (PEAK * SHARE_OF_PEAK)
    launches = 120 * LAUNCH
    gather = partial(exchange, network, devices, passes=1)
    reduce = partial(exchange, network, devices, passes=2)
    exchanges = 5 * gather(4 * 65 * devices) + 4 * reduce(4 * 64)  # batch normalisation
    exchanges += gather(2328) + gather(40) + reduce(4 * 70_730)  # buffers, gradients
    return [arithmetic, launches, exchanges, max(arithmetic, launches) + exchanges]


def table(*header: str) -> None:
    """Prints the head of a table, as Markdown."""
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")


def row(*cells: object) -> None:
    """Prints a row of it."""
    print(f"| {' | '.join(f'{c:,}' if isinstance(c, int) else str(c) for c in cells)} |")


def seconds(value: float) -> str:
    """With three digits."""
    number = value * (1e6 if value < 1e-3 else 1e3 if value < 1 else 1)
    digits = max(0, 2 - math.floor(math.log10(number))) if number else 0
    return f"{number:,.{digits}f} {'µs' if value < 1e-3 else 'ms' if value < 1 else 's'}"


def tell_large(model: Decoder, batch: int, each: int) -> None:
    """Prints a step of the decoder with one batch for all, and with one for each device."""
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


def tell_small() -> None:
    """Prints a step of the default network."""
    table("devices", "samples each", "arithmetic", "launches", "exchanges", "step", "efficiency")
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


def tell_limits(model: Decoder, batch: int) -> None:
    """Prints memory, checkpoints, and what else docs/scaling.md says of the limits."""
    table("devices", "DDP, GB", "FSDP, GB", "sequences that fit", "a failure", "save every")
    for devices in DEVICES:
        whole, parts = memory(model, devices)
        fit = [math.floor((ROOM - held) / model.activations) for held in (whole, parts)]
        hours = 54 * 24 * 16384 / 419 / devices
        minutes = math.sqrt(2 * 12 * model.parameters / DISK * 3600 * hours) / 60
        sizes = [f"{whole / 1e9:.1f}", f"{parts / 1e9:.1f}"]
        row(devices, *sizes, f"{fit[0]}, {fit[1]}", f"every {hours:,.0f} h", f"{minutes:.0f} min")
    print("\nthe vote's hop, if it is to take no longer than a step of DDP:")
    for devices in DEVICES[1:]:
        hop = ddp(model, NETWORKS[0], devices, batch / devices) / (2 * (devices - 1))
        print(f"{devices:,} devices: {seconds(hop)}")
    sent = 4 * model.layers * exchange(NETWORKS[0], 8, 2 * 16 * model.tokens * model.width, 2)
    print(f"tensor parallelism over 8, 16 sequences: {seconds(sent)} of exchanges a step")
    theirs = replace(model, width=2048, words=50368, tokens=2048)
    steps = [fsdp(theirs, NETWORKS[0], devices, 20) for devices in (16, 64)]
    print(f"MosaicML's network on 64 devices, of its speed on 16: {steps[0] / steps[1]:.3f}")
    for size in (BUCKET, 10 * BUCKET):
        step = ddp(model, NETWORKS[0], 1024, batch / 1024, size)
        print(f"DDP on 1,024 devices, buckets of {size / 2**20:.0f} MiB: {seconds(step)}")


def draw(model: Decoder, batch: int, path: str) -> None:
    """BatchGenerator the efficiency with one batch for all."""
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
    axes.set_title(f"{model.parameters / 1e9:.2f} billion parameters, {batch:,} sequences a step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=90)


def main() -> None:
    """Prints the tables, and draws the picture."""
    model, batch, each = Decoder(), 1024, 16
    token, step = model.operations / model.tokens, batch * model.operations
    print(f"{model.parameters:,} parameters; operations: {token:.3g} a token, {step:.3g} a step;")
    print(f"activations: {model.activations / 1e9:.2f} GB a sequence")
    tell_large(model, batch, each)
    tell_small()
    tell_limits(model, batch)
    if sys.argv[1:]:
        draw(model, batch, sys.argv[1])


if __name__ == "__main__":
    main()
