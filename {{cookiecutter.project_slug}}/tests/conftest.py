"""Shared fixtures: a small data set, trainers, and commands that run in this process."""

import contextlib
import csv
import gc
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch
from base.base_trainer import BaseTrainer
from builders import build_fitted_dataset, build_loader, build_new_model
from config import classes
from config.constructors import constructor_parameters
from config.loading import load_settings
from config.schema import NO_CLASS, LossSettings, Settings
from data_loader import synthetic
from logger.console import log
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier
from utils.command import run_command
from utils.randomness import seed_everything

gc.freeze()  # as commands do, once torch is imported
ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config/synthetic.yaml"
FEW_FILES = {  # those of the fixture `few_files`; all projects have them
    "data_loader": ["samplers", "splits", "synthetic"],
    "model": ["losses", "networks"],
    "optim": [
        *("losses", "moving_average", "optimizers", "parameter_groups", "schedulers", "schedules")
    ],
    "trainer": ["classifier"],
}
# Numbers of synthetic images. The training set has 1000 - 210 = 790, which are 16 steps per epoch.
# No batch size in the tests divides these numbers, so every test includes a short last batch.
SPLIT_SIZES = {"TRAINING": 1000, "VALIDATION": 210, "TEST": 303}
QUICK_SETTINGS = (
    "device=cpu",
    "data.batch_size=50",
    "trainer.epochs=2",
    "trainer.precision=fp32",
    "optimizer.lr=0.05",
    "logger.tensorboard=false",
    "logger.curves=false",  # drawing them takes as long as such a training
)
TINY_MODEL = ("model.name=networks.MLP", "model.width=4")


class Minimal(BaseTrainer):
    """Defines nothing but what each trainer must define."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": model(batch["input"]).square().mean()}

    evaluation_step = training_step


def needs(file: Path) -> pytest.MarkDecorator:
    """Skips a test of a file that the project does not need, if the user has deleted it."""
    name = file.relative_to(ROOT).as_posix()
    return pytest.mark.skipif(not file.exists(), reason=f"{name} was deleted")


@pytest.fixture(scope="session", autouse=True)
def small_data() -> Iterator[None]:
    """Reduces the synthetic data, and ignores the user's own data folder."""
    torch.set_num_threads(1)  # faster for such small models, especially on a busy machine
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SPLIT_SIZES.items():
            patch.setattr(synthetic, name, size)
        patch.delenv("DATA_ROOT", raising=False)
        yield


@pytest.fixture(autouse=True)
def working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs each test in a temporary folder, so that no test writes into the project."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_files(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder with a few files of the project, in which settings find their classes.

    So a class that the user has added to the project changes neither lists nor suggestions.
    """
    root = tmp_path_factory.mktemp("project")
    for package, names in FEW_FILES.items():
        (root / package).mkdir()
        for name in ("__init__", *names):
            shutil.copy(ROOT / package / f"{name}.py", root / package)
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [str(root / package)])
    monkeypatch.setattr(classes, "ROOT", root)
    for name in _modules_of_packages():
        # A test may write a file whose name is that of a module of the user.
        if name.split(".")[1] not in FEW_FILES[name.split(".")[0]]:
            monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield root
    for name in _modules_of_packages():
        if name not in before:
            del sys.modules[name]


def _modules_of_packages() -> list[str]:
    """The imported modules of the packages in FEW_FILES."""
    return [name for name in sys.modules if name.partition(".")[0] in FEW_FILES and "." in name]


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    """``make_settings("trainer.epochs=1")``: quick settings for synthetic data, with overrides."""

    def make(*changes: str) -> Settings:
        return load_settings(CONFIG, [*QUICK_SETTINGS, *changes])

    return make


@pytest.fixture(scope="session")
def splits(small_data: None, make_settings: Callable[..., Settings]) -> dict[str, BaseDataset]:
    """The synthetic data sets by split: train, validation, test."""
    settings = make_settings()
    return {
        split: build_fitted_dataset(settings, split) for split in ("train", "validation", "test")
    }


@pytest.fixture
def make_trainer(
    tmp_path: Path, make_settings: Callable[..., Settings], splits: dict[str, BaseDataset]
) -> Callable[..., Any]:
    """``make_trainer("trainer.ema=0.9")``: a trainer on synthetic data, ready for `fit`.

    ``kind`` is the class of the trainer, ``train`` the training set.
    """

    def make(
        *changes: str, kind: type[BaseTrainer] = Classifier, train: BaseDataset = splits["train"]
    ) -> BaseTrainer:
        settings = make_settings(*changes)
        if kind.default_loss == NO_CLASS and not any(text.startswith("loss") for text in changes):
            settings = settings.model_copy(update={"loss": LossSettings()})
        seed_everything(settings.seed)
        loaders = {
            "train": build_loader(settings, train, training=True),
            "validation": build_loader(settings, splits["validation"]),
        }
        model = build_new_model(settings, splits["train"])
        run = tmp_path / "run"
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        accepted = constructor_parameters(kind)
        arguments = {}
        for name, value in settings.trainer.arguments.items():
            if name in accepted:
                arguments[name] = value
        return kind(settings=settings, model=model, loaders=loaders, run=run, **arguments)

    return make


@pytest.fixture(scope="session")
def command() -> Callable[..., int]:
    """``command("train", "trainer.epochs=1")``: runs train.py here; returns its exit code."""

    def run(name: str, *arguments: object) -> int:
        main = importlib.import_module(name).main
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            try:
                with pytest.raises(SystemExit) as caught:
                    run_command(main)
            finally:
                _close_log_handlers()
        return int(caught.value.code or 0)

    return run


def _close_log_handlers() -> None:
    """Closes the handlers of a command, as the end of its process would."""
    while log.handlers:
        handler = log.handlers[0]
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk
            handler.close()


@pytest.fixture(scope="session")
def train(command: Callable[..., int]) -> Callable[..., int]:
    """``train(folder, "seed=1")``: trains a small model in a new run folder."""

    def run(folder: Path, *changes: str) -> int:
        return command(
            "train", "--config", CONFIG, f"--run-dir={folder}", *QUICK_SETTINGS, *changes
        )

    return run


def leave_out_figures(patch: pytest.MonkeyPatch) -> None:
    """Evaluations of a classifier draw no figures, which would take most of their time."""
    patch.setattr(Classifier, "figures", lambda trainer, split, results: {})
    patch.setattr("evaluation.report.has_class_probabilities", lambda samples: False)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `leave_out_figures`, for a test."""
    leave_out_figures(monkeypatch)


@pytest.fixture
def refused(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``refused("trainer.overfit=0")``: the error of train.py, which leaves no run folder."""

    def run(*changes: str) -> str:
        assert train(tmp_path / "refused", *TINY_MODEL, *changes) == 2
        assert not (tmp_path / "refused").exists()
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="session")
def trained_run(
    small_data: None, train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished run whose first of two epochs was the best; tests only read it.

    pytest sets up a session fixture when a test first requests it. A test module must therefore
    not patch the training code in a fixture of module scope, which would change this run.
    """
    run = tmp_path_factory.mktemp("trained") / "run"
    # The second epoch diverges: its validation accuracy is 0.1, after 0.8 in the first.
    changes = ("optimizer.lr=0.02", "scheduler={name: exponential, factor: 50}")
    assert train(run, *changes) == 0
    assert load_checkpoint(run / "checkpoints/best.pt")["progress"]["step"] == 16
    return run


@pytest.fixture(scope="session")
def logged() -> Callable[..., list[float]]:
    """``logged(run, "train", "loss")``: the values of a metric in metrics.csv, oldest first."""

    def read(run: Path, split: str, metric: str) -> list[float]:
        values = []
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["split"] == split and row["metric"] == metric:
                    values.append(float(row["value"]))
        return values

    return read
