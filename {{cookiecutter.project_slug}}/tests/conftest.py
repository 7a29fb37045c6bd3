"""What the tests share: a small data set, trainers, commands that run in this process."""

import contextlib
import csv
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from base.base_dataset import BaseDataset
from base.base_trainer import BaseTrainer
from builders import build_dataset, build_loader, build_model
from config.constructors import constructor_parameters
from config.loading import load_settings
from config.schema import Settings
from data_loader import synthetic
from logger.console import log
from trainer.classifier import Classifier
from utils.command import run_command
from utils.randomness import seed_everything

gc.freeze()  # as commands do, once torch is imported
ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config/synthetic.yaml"
# Images in the small synthetic data: 790 to train with, in 16 steps an epoch. No batch size that
# the tests use divides these numbers, so that short last batches are always part of a test.
SIZES = {"TRAINING": 1000, "VALIDATION": 210, "TEST": 303}
QUICK = (
    "device=cpu",
    "data.batch_size=50",
    "trainer.epochs=2",
    "trainer.precision=fp32",
    "optimizer.lr=0.05",
    "logger.tensorboard=false",
)


@pytest.fixture(scope="session", autouse=True)
def small_data() -> Iterator[None]:
    """Makes the synthetic data small, and the tests independent of the user's own data folder."""
    torch.set_num_threads(1)  # faster for such small models, and much so on a busy machine
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SIZES.items():
            patch.setattr(synthetic, name, size)
        patch.delenv("DATA_ROOT", raising=False)
        yield


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test works in a folder of its own, so that no run is written into the project."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    """``make_settings("trainer.epochs=1")``: quick settings for synthetic data, with changes."""
    return lambda *changes: load_settings(CONFIG, [*QUICK, *changes])


@pytest.fixture(scope="session")
def splits(small_data: None, make_settings: Callable[..., Settings]) -> dict[str, BaseDataset]:
    """The synthetic data: train, validation, test."""
    found = {s: build_dataset(make_settings(), s) for s in ("train", "validation", "test")}
    for split in ("validation", "test"):
        found[split].load_state_dict(found["train"].state_dict())
    return found


@pytest.fixture
def make_trainer(
    tmp_path: Path, make_settings: Callable[..., Settings], splits: dict[str, BaseDataset]
) -> Callable[..., Any]:
    """``make_trainer("trainer.ema=0.9")``: a trainer of synthetic data, to be called `fit` on.

    Another class can be given as ``kind``, other data as ``train``.
    """

    def make(
        *changes: str, kind: type[BaseTrainer] = Classifier, train: BaseDataset = splits["train"]
    ) -> BaseTrainer:
        settings = make_settings(*changes)
        seed_everything(settings.seed)
        validation = build_loader(settings, splits["validation"])
        loaders = {"train": build_loader(settings, train, training=True), "validation": validation}
        run = tmp_path / "run"
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        accepted = constructor_parameters(kind)
        arguments = {n: v for n, v in settings.trainer.arguments.items() if n in accepted}
        model = build_model(settings, splits["train"])
        return kind(settings=settings, model=model, loaders=loaders, run=run, **arguments)

    return make


@pytest.fixture(scope="session")
def command() -> Callable[..., int]:
    """``command("train", "trainer.epochs=1")``: runs train.py here and returns its exit code."""

    def run(name: str, *arguments: object) -> int:
        main = importlib.import_module(name).main
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            try:
                with pytest.raises(SystemExit) as stop:
                    run_command(main)
            finally:
                while log.handlers:  # as the end of the process would
                    handler = log.handlers[0]
                    log.removeHandler(handler)
                    with contextlib.suppress(OSError):  # of a full disk
                        handler.close()
        return int(stop.value.code or 0)

    return run


@pytest.fixture(scope="session")
def train(command: Callable[..., int]) -> Callable[..., int]:
    """``train(folder, "seed=1")``: trains a small model in a new run folder."""
    return lambda run, *changes: command(
        "train", "--config", CONFIG, "--run-dir", run, *QUICK, *changes
    )


@pytest.fixture(scope="session")
def trained_run(
    small_data: None, train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished run, for tests that only read it; its first epoch was the best."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train(run, "scheduler={name: exponential, factor: 30}") == 0
    return run


@pytest.fixture(scope="session")
def logged() -> Callable[..., list[float]]:
    """``logged(run, "train", "loss")``: what metrics.csv says of a metric, oldest value first."""

    def read(run: Path, split: str, metric: str) -> list[float]:
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [float(r["value"]) for r in rows if (r["split"], r["metric"]) == (split, metric)]

    return read
