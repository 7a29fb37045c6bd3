"""How long `train.py` takes to which accuracy on FashionMNIST, beside the tutorial's loop.

Wall time of the whole command (imports, data and validation included), median over the seeds, and
the test accuracy of the last model, mean over the seeds; the time also as a multiple of an epoch of
PyTorch's tutorial (images by torchvision, one by one, batch 64, network 784-512-512-10,
evaluation), measured in turn with them.
All choices were made on the validation images. The long recipe's number of epochs was first chosen
with test accuracies known, and then anew without: of 10 to 14, as more would take over 20 of the
tutorial's, the one with the best mean validation accuracy of five seeds that are not used here.
It needs DATA_ROOT to name FashionMNIST's folder.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
QUICK = bool(os.environ.get("QUICK"))
SEEDS = int(os.environ.get("SEEDS", 1))  # each of them takes four and a half minutes
RECIPES = {  # what train.py is told
    "one epoch": ["trainer.epochs=1"],
    "two epochs": ["trainer.epochs=2"],
    "the default, five": [],
    "long": ["--config", "config/fashion_mnist_long.yaml"],
}
TUTORIAL = """
import sys, time, torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
kinds = [datasets.FashionMNIST(sys.argv[1], k, transforms.ToTensor()) for k in (True, False)]
train, test = DataLoader(kinds[0], 64, shuffle=True), DataLoader(kinds[1], 64)
hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))
optimizer, loss = torch.optim.SGD(model.parameters(), lr=1e-3), nn.CrossEntropyLoss()
start = time.perf_counter()
for images, target in train:
    loss(model(images), target).backward()
    optimizer.step()
    optimizer.zero_grad()
with torch.no_grad():
    right = sum((model(images).argmax(1) == target).sum().item() for images, target in test)
print(time.perf_counter() - start)
"""


def run(*arguments: str | Path) -> str:
    """What a Python process in the payload's folder prints."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=PAYLOAD, check=True, capture_output=True, text=True)
    return done.stdout


def train(folder: Path, *settings: str) -> tuple[float, float]:
    """Seconds that training takes, and the test accuracy of its last model."""
    start = time.perf_counter()
    run("train.py", "--run-dir", folder, *settings)
    taken = time.perf_counter() - start
    run("evaluate.py", folder / "checkpoints/last.pt")
    metrics = json.loads((folder / "evaluation/test/metrics.json").read_text())
    return taken, metrics["accuracy"]


def main() -> None:
    """Prints a line for each recipe."""
    root = os.environ.get("DATA_ROOT")
    if not root:
        print("not measured, as DATA_ROOT does not name FashionMNIST's folder")
        return
    recipes = ["one epoch"] if QUICK else [*RECIPES]
    found: dict[str, list[tuple[float, float]]] = {recipe: [] for recipe in recipes}
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name, "FashionMNIST/raw")
        raw.mkdir(parents=True)
        for file in Path(root).rglob("*-ubyte*.gz"):  # torchvision unpacks them beside
            (raw / file.name).write_bytes(file.read_bytes())
        run("-c", f"from torchvision import datasets as d; d.FashionMNIST({name!r}, download=True)")
        epochs = []
        for seed in range(SEEDS):
            epochs.append(float(run("-c", TUTORIAL, name)))
            for recipe in recipes:
                folder = Path(name, recipe, str(seed))
                found[recipe].append(train(folder, *RECIPES[recipe], f"seed={seed}"))
    epoch = statistics.median(epochs)
    print(f"seeds: {SEEDS}; one epoch of the tutorial: {epoch:.1f} s")
    print(f"{'recipe':20s}      s    from - to  epochs of it  accuracy    from - to")
    for recipe, pairs in found.items():
        times, accuracies = zip(*pairs, strict=True)
        taken, mean = statistics.median(times), statistics.mean(accuracies)
        bounds = f"{min(times):5.1f} - {max(times):5.1f}"
        score = f"{mean:9.4f}  {min(accuracies):.4f} - {max(accuracies):.4f}"
        print(f"{recipe:20s} {taken:6.1f} {bounds} {taken / epoch:12.1f} {score}")


if __name__ == "__main__":
    main()
