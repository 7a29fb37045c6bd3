"""Time and test accuracy of `train.py` on FashionMNIST, compared with PyTorch's tutorial.

The table shows the median wall time of the whole command over the seeds, including imports, data,
validation and figures, and the mean test accuracy of the last model. The time is also given in
epochs of PyTorch's tutorial (images loaded one by one by torchvision, batch 64, network
784-512-512-10, with evaluation, without imports and the reading of the files), of which one is run
before each training: the median, lowest and highest ratio. `training` is the same ratio for the
time of steps, validations and their figures, without imports. The first two rows are one epoch of
PyTorch's tutorial and of its MNIST example (two convolutions, Adadelta, batch 64) on FashionMNIST.
The numbers of steps were chosen by the time that they take, all else on the validation images. The
seeds are 0, 1 and so on in both cases.

The parts of the recipes were compared in a loop of the same steps, with one thread: the validation
accuracy after so many passes over 60,000 samples, as a mean of six seeds (*: ten to fourteen).
Differences below 0.001 are within the noise.

    passes  part                                              with it  instead
    3.75    samples with high losses (instead: shuffled, 4)    0.9385   0.9373
    5       Muon instead of SGD                                0.9399   0.9368
    1.25    three iterations of Muon instead of five           0.9248   0.9244
    6       random shifts, with the wider network              0.9463   0.9419
    3.75*   scaled filters instead of batch normalisation,     0.9380   0.9378
            and a mean of 2x2 pixels instead of a stride of 2:
            steps of 0.87 of the time (five pairs of runs)
    1.42*   the same, after equal time (instead: 1.25)         0.9286   0.9266

    These did not help:
    1.25    batches of 512                                     0.9198   0.9244
    1.25    batches of 128; of 192                     0.9285, 0.9280   0.9282
    1.25    filters with a stride of 2; of 4x4 pixels  0.9191, 0.9169   0.9244
    1.25    other coefficients of Muon                 0.9222, 0.9236   0.9244
    1.25    a momentum of 0.95                                 0.9201   0.9244
    1.1*    a momentum of 0.85; of 0.8; of 0.7  0.9263, 0.9252, 0.9239   0.9236
    3.75    a momentum of 0.85                                 0.9365   0.9386
    1.25    no label smoothing                                 0.9239   0.9244
    3.75    half the label smoothing                           0.9389   0.9385
    1.25    a width of 24                                      0.9209   0.9244
    3       images of 20x20 pixels in the first half           0.9283   0.9348
    3       mean and maximum before the last layer             0.9351   0.9348
    3.75    the mean before the last layer                     0.9385   0.9392
    3.75    weight decay of Muon                               0.9371   0.9385
    3.75    lr=0.07                                            0.9386   0.9385
    3.75    lr=0.035                                           0.9394   0.9392
    4       the hardest samples alone                          0.9383   0.9401
    4       samples in proportion to losses; squares   0.9384, 0.9399   0.9401

Whole runs with one thread and 12,000 validation images, compared with five epochs of half of the
samples with the highest losses and half of the others (3.75 passes): the difference in validation
accuracy, its standard error, and the time. The first row was chosen.

    passes  epochs, fractions hard and others        difference   time  pairs of runs
    4.06    7, 0.4, 0.3                        +0.0017 ± 0.0004   1.15             12
    4.2     7, 0.5, 0.2                        +0.0015 ± 0.0006   1.22             12
    4.2     6, 0.5, 0.4                        +0.0014 ± 0.0005   1.17             12
    3.9     6, 0.5, 0.3                        +0.0006 ± 0.0004   1.14             12
    3.9     the same with a width of 36        +0.0016 ± 0.0005   1.43             12
    4.2     5, 0.6, 0.6                        +0.0006 ± 0.0002   1.08              6
    4.38    5, 0.5, 0.75                       +0.0001 ± 0.0005   1.12              6
    3.75    5, 0.5, 0.5, a width of 40         +0.0022 ± 0.0008   1.40              6
    3.75    5, 0.5, 0.5, stage 2 with a stride +0.0002 ± 0.0007   0.99              6
    1.4     0.4, 0.3, 300 steps                +0.0007 ± 0.0004   1.03             10
    5.8     10, 0.4, 0.3, the long recipe,     +0.0012 ± 0.0008   1.03              5
            compared with 8, 0.5, 0.5

Without a difference, too: eight filters instead of nine and the first layer in parts of the batch
(both: steps of 0.99 to 1.01 of the time), a mean subtracted from each image, alternating flips,
larger rates for biases, Muon for the last layer, the mean over shifted images in the evaluation.

DATA_ROOT must be set to FashionMNIST's folder. Arguments are settings for all recipes:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/recipes.py \
        trainer.precision=fp32    # as on a processor without AVX-512 and bfloat16
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
SEEDS = int(os.environ.get("SEEDS", 1))  # each takes about two minutes
RECIPES = {  # arguments of train.py
    "300 steps": ["trainer.max_steps=300"],
    "300 steps, no figures": [
        "trainer.max_steps=300",
        "logger.tensorboard=false",
        "logger.curves=false",
    ],
    "default": [],
    "long": ["--config", "config/fashion_mnist_long.yaml"],
}
ONE_EPOCH = """
import sys, time, torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import Compose, Normalize, ToTensor
torch.manual_seed(int(sys.argv[2]))
%s
kinds = [datasets.FashionMNIST(sys.argv[1], train, transform) for train in (True, False)]
training, test = DataLoader(kinds[0], 64, shuffle=True), DataLoader(kinds[1], test_batch)
loss = nn.CrossEntropyLoss()
start = time.perf_counter()
for images, target in training:
    loss(model(images), target).backward()
    optimizer.step()
    optimizer.zero_grad()
model.eval()
with torch.no_grad():
    correct = sum((model(images).argmax(1) == target).sum().item() for images, target in test)
print(time.perf_counter() - start, correct / len(kinds[1]))
"""
TUTORIAL = """
transform, test_batch = ToTensor(), 64
hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
"""
MNIST_EXAMPLE = """
transform, test_batch = Compose([ToTensor(), Normalize(0.1307, 0.3081)]), 1000
features = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
head = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
model = nn.Sequential(*features, nn.Dropout(0.25), *head)
optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
"""
PEERS = {  # each for one epoch
    "PyTorch's tutorial": TUTORIAL,
    "its MNIST example": MNIST_EXAMPLE,
}


def run(*arguments: str | Path) -> str:
    """Runs Python in the payload's folder; returns its output."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=PAYLOAD, check=True, capture_output=True, text=True)
    return done.stdout


def train(folder: Path, *settings: str) -> tuple[float, float, float]:
    """Trains; returns the seconds, those without imports, and the last model's test accuracy."""
    start = time.perf_counter()
    run("train.py", "--run-dir", folder, *settings)
    taken = time.perf_counter() - start
    run("evaluate.py", folder / "checkpoints/last.pt")
    metrics = json.loads((folder / "evaluation/test/metrics.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    return taken, 60 * result["minutes"], metrics["accuracy"]


def train_one_epoch(network: str, data: str, seed: int) -> tuple[float, float]:
    """Trains in PyTorch alone; returns the seconds without imports, and the test accuracy."""
    seconds, accuracy = run("-c", ONE_EPOCH % network, data, str(seed)).split()
    return float(seconds), float(accuracy)


def main() -> None:
    """Prints one line for each recipe."""
    root = os.environ.get("DATA_ROOT")
    if not root:
        print("not measured: set DATA_ROOT to FashionMNIST's folder")
        return
    recipes = ["300 steps, no figures"] if QUICK else [*RECIPES]
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in [*PEERS, *recipes]:
        found[row] = []
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name, "FashionMNIST/raw")
        raw.mkdir(parents=True)
        for file in Path(root).rglob("*-ubyte*.gz"):
            # A copy, because torchvision unpacks the files next to the archives.
            (raw / file.name).write_bytes(file.read_bytes())
        run("-c", f"from torchvision import datasets as d; d.FashionMNIST({name!r}, download=True)")
        for seed in range(SEEDS):
            for peer, network in PEERS.items():
                epoch, _ = train_one_epoch(TUTORIAL, name, seed)
                seconds, accuracy = train_one_epoch(network, name, seed)
                found[peer].append((epoch, seconds, seconds, accuracy))
            for recipe in recipes:
                epoch, _ = train_one_epoch(TUTORIAL, name, seed)
                folder = Path(name, recipe, str(seed))
                settings = [*RECIPES[recipe], f"seed={seed}", *sys.argv[1:]]
                found[recipe].append((epoch, *train(folder, *settings)))
    print(f"{'recipe':22s} tutorial, s      s  tutorial ep.   min - max  training", end="")
    print(f"  accuracy     min - max  (seeds: {SEEDS})")
    for recipe, measured in found.items():
        epochs, times, training, accuracies = zip(*measured, strict=True)
        ratios = [taken / epoch for taken, epoch in zip(times, epochs, strict=True)]
        alone = [taken / epoch for taken, epoch in zip(training, epochs, strict=True)]
        print(
            f"{recipe:22s} {statistics.median(epochs):11.1f} {statistics.median(times):6.1f} "
            f"{statistics.median(ratios):13.1f}  {min(ratios):4.1f} - {max(ratios):4.1f} "
            f"{statistics.median(alone):9.1f} "
            f"{statistics.mean(accuracies):9.4f}  {min(accuracies):.4f} - {max(accuracies):.4f}"
        )


if __name__ == "__main__":
    main()
