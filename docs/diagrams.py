"""Draws the diagrams of docs/how-it-works.md from the code: python docs/diagrams.py [FOLDER].

`layers.svg` shows the layers that tests/test_layers.py enforces, `imports.svg` which package
imports which. `step.svg` shows the calls of one training step, recorded while the default
trainer makes it. The same code gives the same files, and a test compares them.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import FrameType
from typing import Any

TEMPLATE = Path(__file__).resolve().parent.parent
PAYLOAD = TEMPLATE / "{{cookiecutter.project_slug}}"
sys.path[:0] = [str(PAYLOAD), str(TEMPLATE / "tests")]

from test_layers import LAYERS, import_graph, payload_sources  # noqa: E402

# Colours of groups: fill and text on a light background, fill and text on a dark one.
COLOURS = {
    "commands": ("#e4dcfa", "#3c2378", "#35285c", "#dccffd"),
    "base": ("#d3e5fb", "#0b3d77", "#163a63", "#c6dffb"),
    "yours": ("#d2efd9", "#0c4a22", "#15402a", "#c0efcf"),
    "services": ("#fbe7c6", "#633a00", "#4a3411", "#fbe0b0"),
    "basis": ("#e3e6ea", "#2b3138", "#343b44", "#dde3ea"),
    "torch": ("#fadbd3", "#7a2310", "#56261b", "#fccdc0"),
}
# The group and a short description of each package. Of the packages in a layer, each is listed
# before those that it imports.
PACKAGES = {
    "experiments": ("commands", "sweeps and comparisons"),
    "checks": ("commands", "one file per check"),
    "evaluation": ("commands", "results of runs"),
    "trainer": ("yours", "training steps"),
    "model": ("yours", "networks"),
    "data_loader": ("yours", "data sets"),
    "base": ("base", "the loop, and the abstract classes"),
    "storage": ("services", "checkpoints"),
    "logger": ("services", "logs, curves"),
    "metrics": ("services", "accuracy"),
    "optim": ("services", "optimizers"),
    "config": ("basis", "typed settings"),
    "utils": ("basis", "devices, random numbers"),
    "torch": ("torch", ""),
}
# The main functions of a step, with what they do. The order, the nesting and the files are
# recorded.
CALLS = {
    "base.base_trainer.BaseTrainer.fit": "the loop",
    "base.batch_loader.StepSource.sample_indices": "which samples step k has, from the seed and k",
    "data_loader.synthetic.Synthetic.__getitems__": "the samples, as one batch",
    "data_loader.synthetic.Synthetic.transform": "augmentation, normalisation",
    "base.base_trainer.BaseTrainer.set_learning_rates": "from the schedule and k",
    "base.base_trainer.BaseTrainer.update": "one optimizer step; override it for several passes",
    "base.optimizer_step.compute_gradients": "autocast, accumulation",
    "trainer.classifier.Classifier.training_step": "the loss of a batch",
    "model.networks.ConvNet.forward": "logits",
    "optim.losses.Loss.__call__": "loss.name in the settings",
    "torch._tensor.Tensor.backward": "gradients, averaged over the processes",
    "base.optimizer_step.clip_gradients": "trainer.clip_norm",
    "torch.optim.sgd.SGD.step": "new weights",
    "logger.meter.Meter.add": "adds on the device: the host does not wait",
    "base.base_trainer.BaseTrainer.after_step": "yours to override",
    "base.base_trainer.BaseTrainer.log_training": "if due: metrics.csv, TensorBoard",
    "base.base_trainer.BaseTrainer.validate": "if due",
    "trainer.classifier.Classifier.evaluation_step": "updates the metrics, batch by batch",
    "base.base_trainer.BaseTrainer.after_evaluation": "yours to override",
    "storage.trainer_state.collect_trainer_state": "everything the next step depends on",
    "storage.checkpoint_file.save_checkpoint": "a temporary file, then renamed",
}
QUICK = ["device=cpu", "trainer.max_steps=1", "data.batch_size=50", "logger.tensorboard=false"]
SPLIT_SIZES = {"TRAINING": 200, "VALIDATION": 60, "TEST": 60}

WIDTH = 400  # CSS pixels, about the width of a phone
MARGIN = 16
GAP = 8


@dataclass
class Call:
    """A call of a main function, with the main functions that it calls in turn."""

    name: str
    calls: list["Call"] = field(default_factory=list)


def main() -> None:
    """Writes the three diagrams."""
    parser = argparse.ArgumentParser(description="Draws the diagrams of docs/how-it-works.md.")
    parser.add_argument("folder", nargs="?", type=Path, default=TEMPLATE / "docs", metavar="FOLDER")
    folder = parser.parse_args().folder.resolve()
    (fit,) = record_step().calls
    diagrams = {
        "layers": draw_layers(),
        "imports": draw_imports(imports_of_packages()),
        "step": draw_step(fit),
    }
    for name, text in diagrams.items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")


# The layers.


def draw_layers() -> str:
    """The layers from top to bottom: a box for each package, one for all modules of a layer."""
    parts = []
    y = MARGIN
    width = WIDTH - 2 * MARGIN - 30  # the arrow is on the right
    for layer in reversed(LAYERS):
        packages = [name for name in PACKAGES if name in layer]
        if packages:
            box_width = (width - GAP * (len(packages) - 1)) / len(packages)
            for index, name in enumerate(packages):
                group, description = PACKAGES[name]
                x = MARGIN + index * (box_width + GAP)
                parts.append(box(x, y, box_width, 50, group))
                parts.append(text(x + box_width / 2, y + 22, name, f"name {group} middle"))
                parts.append(text(x + box_width / 2, y + 39, description, f"{group} middle"))
            y += 50 + GAP
        else:
            lines = in_lines(sorted(layer), 37)
            height = 18 + 18 * len(lines)
            parts.append(box(MARGIN, y, width, height, "commands"))
            for index, line in enumerate(lines):
                line_y = y + 23 + 18 * index
                parts.append(text(MARGIN + width / 2, line_y, line, "name commands middle"))
            y += height + GAP
    bottom = y - GAP
    x = WIDTH - MARGIN - 5
    parts.append(f'<path class="line" d="M{x} {MARGIN + 4}V{bottom - 6}m-5 -7l5 7l5 -7"/>')
    middle = (MARGIN + bottom) / 2
    parts.append(
        f'<text class="middle" transform="translate({x - 7} {middle:g}) rotate(-90)">'
        "imports go down only</text>"
    )
    return svg(parts, WIDTH, bottom + MARGIN, "The layers of a project, from top to bottom")


def in_lines(names: Iterable[str], characters: int) -> list[str]:
    """The names in lines of at most so many characters."""
    lines = [""]
    for name in names:
        if lines[-1] and len(lines[-1]) + len(name) + 3 > characters:
            lines.append("")
        separator = " · " if lines[-1] else ""
        lines[-1] += separator + name
    return lines


# The imports.


def imports_of_packages() -> dict[str, set[str]]:
    """Which packages each package imports, from the top layer to the bottom.

    The modules next to the packages count as one: the commands, and what they share.
    """
    names: dict[str, str] = {}
    order = []
    for layer in reversed(LAYERS):
        packages = [name for name in PACKAGES if name in layer]
        if not packages:
            title = "commands"
            if "builders" in layer:
                title = "builders, …"
            packages = [title]
            names |= dict.fromkeys(layer, title)
        else:
            names |= {name: name for name in packages}
        order += packages
    imports: dict[str, set[str]] = {name: set() for name in order}
    for module, imported in import_graph(payload_sources()).items():
        package = names[module.split(".")[0]]
        imports[package] |= {names[other.split(".")[0]] for other in imported} - {package}
    for index, name in enumerate(order):
        earlier = imports[name] & set(order[:index])
        if earlier:
            sys.exit(f"error: list {name} before {', '.join(sorted(earlier))} in PACKAGES")
    return imports


def draw_imports(imports: Mapping[str, set[str]]) -> str:
    """A matrix: the package in a row imports those with a dot in its column."""
    names = list(imports)
    cell = 18
    left = 116
    top = 88
    parts = []
    for row, name in enumerate(names):
        y = top + row * cell
        group = PACKAGES.get(name, ("commands", ""))[0]
        parts.append(box(MARGIN, y + 1, left - MARGIN - 6, cell - 2, group))
        parts.append(text(MARGIN + 8, y + 13, name, group))
        middle = left + row * cell + cell / 2
        parts.append(
            f'<text transform="translate({middle + 4:g} {top - 6}) rotate(-60)">'
            f"{escape(name)}</text>"
        )
        for column, other in enumerate(names):
            x = left + column * cell
            if row == column:
                parts.append(box(x + 3, y + 3, cell - 6, cell - 6, group))
            elif other in imports[name]:
                parts.append(
                    f'<circle class="dot" cx="{x + cell / 2:g}" cy="{y + cell / 2:g}" r="4.5"/>'
                )
            elif column > row:
                parts.append(
                    f'<circle class="no" cx="{x + cell / 2:g}" cy="{y + cell / 2:g}" r="1.2"/>'
                )
    x = left + 8
    y = top + cell * len(names)
    parts.append(text(x, y - 52, "A row imports the"))
    parts.append(text(x, y - 36, "columns with a dot."))
    parts.append(text(x, y - 20, "No dot is on this side."))
    width = left + cell * len(names) + 36
    return svg(parts, width, y + MARGIN, "Which package imports which")


# The path of a step.


def record_step() -> Call:
    """Trains for one step; returns the calls of the main functions.

    It is the last step of the run, so it is logged, validated and saved.

    Raises:
        SystemExit: if a main function was not called.
    """
    root = Call("")
    open_calls: dict[FrameType, Call] = {}

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "return":
            open_calls.pop(frame, None)
        if event != "call":
            return
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        if name in CALLS:
            call = Call(name)
            caller_of(frame, open_calls, root).calls.append(call)
            open_calls[frame] = call

    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(Path(folder))
        sys.setprofile(profile)
        try:
            trainer.fit()
        finally:
            sys.setprofile(None)
    missing = CALLS.keys() - set(names_of(root))
    if missing:
        sys.exit(f"error: a training step does not call {', '.join(sorted(missing))}")
    (fit,) = root.calls
    first = next(i for i, call in enumerate(fit.calls) if call.name.endswith("sample_indices"))
    fit.calls = fit.calls[first:]  # without the checkpoint before the first step
    keep_first_calls(root, set())
    return root


def caller_of(frame: FrameType, open_calls: Mapping[FrameType, Call], root: Call) -> Call:
    """The innermost main function that a call is made in."""
    outer = frame.f_back
    while outer is not None:
        if outer in open_calls:
            return open_calls[outer]
        outer = outer.f_back
    return root


def names_of(call: Call) -> list[str]:
    """The name of a call, and of all calls in it."""
    names = [call.name]
    for inner in call.calls:
        names += names_of(inner)
    return names


def keep_first_calls(call: Call, seen: set[str]) -> None:
    """Keeps the first call of each function: an evaluation loads batches as well, for example."""
    first_calls = []
    for inner in call.calls:
        if inner.name not in seen:
            seen.add(inner.name)
            first_calls.append(inner)
            keep_first_calls(inner, seen)
    call.calls = first_calls


def build_trainer(run: Path) -> Any:
    """The trainer of config/synthetic.yaml, with few samples."""
    os.chdir(PAYLOAD)
    import builders
    import torch
    from config.loading import load_settings
    from data_loader import synthetic
    from utils.randomness import seed_everything

    torch.set_num_threads(1)
    for name, size in SPLIT_SIZES.items():
        setattr(synthetic, name, size)
    settings = load_settings(PAYLOAD / "config/synthetic.yaml", QUICK)
    seed_everything(settings.seed)
    loaders = builders.build_training_loaders(settings)
    model = builders.build_new_model(settings, loaders["train"].dataset)
    (run / "checkpoints").mkdir()
    return builders.build_trainer(settings, model, loaders, run)


def draw_step(fit: Call) -> str:
    """The calls of a step from top to bottom; those inside a call are indented."""
    parts: list[str] = []
    bottom = draw_call(fit, MARGIN, MARGIN, parts)
    return svg(parts, WIDTH, bottom - GAP + MARGIN, "The path of a training step")


def draw_call(call: Call, x: float, y: float, parts: list[str]) -> float:
    """Adds a call at a position, and all calls in it; returns the y below them."""
    height = 42
    package = call.name.split(".")[0]
    group = PACKAGES[package][0]
    parts.append(box(x, y, WIDTH - MARGIN - x, height, group))
    parts.append(text(x + 10, y + 18, short_name(call.name), f"name {group}"))
    parts.append(text(x + 10, y + 34, CALLS[call.name], group))
    parts.append(text(WIDTH - MARGIN - 10, y + 18, package, f"{group} end"))
    y += height + GAP
    line_x = x + 9
    line_top = y - GAP
    for inner in call.calls:
        middle = y + height / 2
        parts.append(f'<path class="line" d="M{line_x} {line_top}V{middle}H{x + 20}"/>')
        y = draw_call(inner, x + 20, y, parts)
    return y


def short_name(name: str) -> str:
    """The function with its class, without the module."""
    *_, owner, function = name.split(".")
    if owner[0].isupper():
        return f"{owner}.{function}"
    return function


# SVG.


def box(x: float, y: float, width: float, height: float, group: str) -> str:
    """A rounded rectangle in the colour of a group."""
    return (
        f'<rect class="{group}-box" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        'rx="6"/>'
    )


def dot(x: float, y: float, radius: float, classes: str) -> str:
    """A circle around a point."""
    return f'<circle class="{classes}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def text(x: float, y: float, content: str, classes: str = "") -> str:
    """A line of text."""
    return f'<text class="{classes}" x="{x:g}" y="{y:g}">{escape(content)}</text>'


def svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    """A picture on a background of its own, which is readable on light and dark pages."""
    light = ["svg { font: 12px system-ui, sans-serif }"]
    light += [".card { fill: #fff; stroke: #d5dae0 }", "text { fill: #3b434c }"]
    light += [".name { font: 600 13px ui-monospace, monospace }"]
    light += [".middle { text-anchor: middle }", ".end { text-anchor: end }"]
    light += [".line { fill: none; stroke: #97a1ac; stroke-width: 1.5 }"]
    light += [".dot { fill: #3b434c }", ".no { fill: #c4cbd3 }"]
    dark = [".card { fill: #14181d; stroke: #343b44 }", "text { fill: #c3cad2 }"]
    dark += [".line { stroke: #6d7782 }", ".dot { fill: #c3cad2 }", ".no { fill: #434b55 }"]
    for group, (fill, ink, dark_fill, dark_ink) in COLOURS.items():
        light += [f".{group}-box {{ fill: {fill} }}", f"text.{group} {{ fill: {ink} }}"]
        dark += [f".{group}-box {{ fill: {dark_fill} }}", f"text.{group} {{ fill: {dark_ink} }}"]
    style = "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}"])
    card = (
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" '
        'rx="10"/>'
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img">'
    )
    lines = [head, f"<title>{escape(title)}</title>", f"<style>\n{style}\n</style>", card, *parts]
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
