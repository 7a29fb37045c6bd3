"""Creates the figures of docs/examples/: python docs/example_pictures.py [EXAMPLE ...].

For each example, the script renders a project, trains it with the default settings, evaluates it,
and copies the figures that the pages show. FashionMNIST needs `DATA_ROOT` or network access. All
examples together take a few minutes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
MAX_WIDTH = 960  # pixels, almost twice the width of a page on a large phone
MAX_BYTES = 160_000

# The commands after the first training, and the figures that the page shows, by their names there.
EXAMPLES: dict[str, tuple[list[str], dict[str, str]]] = {
    "fashion_mnist": (
        ["preview.py", "evaluate.py runs/first"],
        {
            "samples": "preview/train_augmented.png",
            "confusion": "runs/first/evaluation/test/confusion_matrix.png",
            "misclassified": "runs/first/evaluation/test/misclassified.png",
        },
    ),
    "image_csv": (
        ["preview.py", "evaluate.py runs/first"],
        {
            "samples": "preview/train_augmented.png",
            "confusion": "runs/first/evaluation/test/confusion_matrix.png",
        },
    ),
    "tabular_csv": (
        [
            "evaluate.py runs/first",
            "train.py --config config/tabular_number.yaml --run-dir runs/number",
            "evaluate.py runs/number",
        ],
        {
            "confusion": "runs/first/evaluation/test/confusion_matrix.png",
            "predicted": "runs/number/evaluation/test/predicted.png",
        },
    ),
    "text_csv": (
        ["evaluate.py runs/first"],
        {"confusion": "runs/first/evaluation/test/confusion_matrix.png"},
    ),
    "regression": (
        [
            "evaluate.py runs/first",
            "train.py --config config/sine.yaml --run-dir runs/sine",
            "evaluate.py runs/sine",
        ],
        {
            "line": "runs/first/evaluation/test/curve.png",
            "sine": "runs/sine/evaluation/test/curve.png",
        },
    ),
    "bare": (
        ["evaluate.py runs/first"],
        {"reliability": "runs/first/evaluation/test/reliability.png"},
    ),
}


def main() -> None:
    """Creates the figures of the given examples, or of all."""
    parser = argparse.ArgumentParser(description="Creates the figures of docs/examples/.")
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help="by default all")
    examples = parser.parse_args().examples or EXAMPLES
    for example in examples:
        commands, figures = EXAMPLES[example]
        with tempfile.TemporaryDirectory() as folder:
            project = render(example, Path(folder))
            for command in ["train.py --run-dir runs/first", *commands]:
                run([sys.executable, *command.split()], project)
            for name, file in figures.items():
                save(project / file, DOCS / "examples" / f"{example}-{name}.png")


def render(example: str, folder: Path) -> Path:
    """Renders a project with an example; returns its folder."""
    command = [sys.executable, "-m", "cookiecutter", str(DOCS.parent), "--no-input"]
    run([*command, "--default-config", f"example={example}"], folder)
    return folder / "my-project"


def run(command: list[str], folder: Path) -> None:
    """Runs a command; exits with its output if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def save(source: Path, target: Path) -> None:
    """Writes a figure with 256 colours, and at most MAX_WIDTH pixels wide."""
    picture = Image.open(source).convert("RGB")
    picture.thumbnail((MAX_WIDTH, MAX_WIDTH))
    picture.quantize(dither=Image.Dither.NONE).save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target.relative_to(DOCS.parent)}: {size / 1000:.0f} kB")
    if size > MAX_BYTES:
        sys.exit(f"error: {target.name} has {size} bytes; at most {MAX_BYTES} are allowed")


if __name__ == "__main__":
    main()
