"""Plots the results of loop.py and recipes.py in RESULTS.md; writes docs/speed.png."""

import re
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
PICTURE = RESULTS.parent.parent / "docs/speed.png"
OURS = "torch-template, defaults"
BARE = "bare loop"
SHOWN = {  # the labels of the loops, from bottom to top
    "Lightning, defaults": "Lightning, defaults",
    "Lightning, all off": "Lightning, all off",
    "Accelerate": "Accelerate",
    "Ignite supervised trainer": "Ignite, supervised trainer",
    "Ignite Engine": "Ignite, custom step",
    BARE: "hand-written loop",
    OURS: "torch-template",
}
COLOURS = {OURS: "#ee4c2c", BARE: "#57606a"}
OTHERS = "#afb8c1"
PEER = "its MNIST example"  # the tutorial's accuracy is far below that of all others
RECIPES = ("300 steps", "default", "long", PEER)


def read(text: str) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Returns µs per step by loop, and (tutorial epochs, accuracy in %) by recipe."""
    tiny = text.split("tiny (20-32-10)")[1].split("MLP (784-512-512-10)")[0]
    loops = re.findall(r"^(\S.*?)  +([\d.]+) +[-+]", tiny, re.MULTILINE)
    pattern = r"^(\S.*?)  +[\d.]+ +[\d.]+ +([\d.]+) +[\d.]+ - +[\d.]+ +[\d.]+ +(0\.\d+)"
    table = text.split("## recipes.py")[1].split("```")[1]
    recipes = re.findall(pattern, table, re.MULTILINE)
    found = {}
    for name, epochs, score in recipes:
        if name in RECIPES:
            found[name] = (float(epochs), 100 * float(score))
    return {name: float(value) for name, value in loops}, found


def draw(text: str) -> Figure:
    """Plots the times of the loops as bars, and the accuracy of the recipes over time."""
    loops, recipes = read(text)
    figure = Figure((9.6, 3.4), layout="constrained")
    bars, points = figure.subplots(1, 2)
    times = [loops[name] for name in SHOWN]
    drawn = bars.barh([*SHOWN.values()], times, color=[COLOURS.get(n, OTHERS) for n in SHOWN])
    bars.bar_label(drawn, [f"{time:.0f} µs" for time in times], padding=3)
    bars.set_title("One training step, network 20-32-10, one thread", loc="left", fontsize=10)
    bars.set_xlim(0, 1.15 * max(times))
    bars.xaxis.set_visible(False)
    bars.tick_params(left=False)
    bars.spines[:].set_visible(False)
    peer = recipes.pop(PEER)
    epochs, scores = zip(*recipes.values(), strict=True)
    points.plot(epochs, scores, "o-", color=COLOURS[OURS])
    points.plot(*peer, "o", color=OTHERS)
    style = {"textcoords": "offset points", "fontsize": 9}
    for name, position in recipes.items():
        points.annotate(name, position, (-5, 4), ha="right", **style)
    points.annotate("PyTorch's MNIST\nexample, one epoch", peer, (5, 5), ha="left", **style)
    points.set_title("FashionMNIST: test accuracy, %", loc="left", fontsize=10)
    points.set_xlabel("wall time, in epochs of PyTorch's tutorial (log scale)", fontsize=9)
    points.set_xscale("log")
    ticks = [1, 2, 5, 10, 20]
    points.set_xticks(ticks, [str(tick) for tick in ticks])
    points.minorticks_off()
    points.set_xlim(0.5, 50)
    points.margins(y=0.15)
    points.grid(alpha=0.3)
    points.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    draw(RESULTS.read_text(encoding="utf-8")).savefig(PICTURE, dpi=110)
