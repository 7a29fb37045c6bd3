"""Running an exported .pt2 file as a program without this project would."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

PROGRAM = """
import sys
import numpy as np
import torch
program = torch.export.load(sys.argv[1]).module()
outputs = program(torch.from_numpy(np.load(sys.argv[2])))
np.save(sys.argv[3], outputs.numpy())
"""


def run_outside(file: Path, array: Any, folder: Path) -> Tensor:
    """The output of a .pt2 file for an array, in a process that cannot import the project."""
    folder.mkdir()
    np.save(folder / "input.npy", array)
    arguments = [str(file.resolve()), "input.npy", "output.npy"]
    code = [sys.executable, "-I", "-c", PROGRAM, *arguments]
    done = subprocess.run(code, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.load(folder / "output.npy"))


def read_about(run: Path) -> Any:
    """The file about.json in the export folder of a run."""
    return json.loads((run / "export/about.json").read_text(encoding="utf-8"))


def prepare_image(file: Path, about: Any) -> Any:
    """An image file as a batch of one, float32, made by what about.json says."""
    rules = about["preparation"]
    assert rules["kind"] == "image"
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        types = {"I;16": "16-bit integer", "F": "floating-point number"}
        if image.mode in types:
            levels = np.asarray(image, np.float64) * 255 / rules["white"][types[image.mode]]
            image = Image.fromarray(np.rint(levels).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        image = image.convert(rules["colour_mode"])
    resize = rules["resize"]
    size = (resize["width"], resize["height"])
    method = {"bicubic": Image.Resampling.BICUBIC}[resize["filter"]]
    if resize["rule"] == "pad":
        image = ImageOps.pad(image, size, method, color=0)
    else:
        image = ImageOps.fit(image, size, method)
    pixels = np.asarray(image, np.float64).reshape(*image.size[::-1], -1)
    crop = rules.get("crop")
    if crop:
        bottom = crop["top"] + crop["height"]
        right = crop["left"] + crop["width"]
        pixels = pixels[crop["top"] : bottom, crop["left"] : right]
    pixels = (pixels * rules["scale"] - rules["mean"]) / rules["std"]
    return pixels.transpose(2, 0, 1)[None].astype(rules["dtype"])
