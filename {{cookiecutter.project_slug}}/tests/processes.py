"""Training jobs for several processes: python tests/processes.py JOB RUN KEY=VALUE ... [-- ...]."""

import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from kinds import KINDS, Kind
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from builders import build_loader, build_model, fit_dataset
from config.loading import load_settings
from data_loader import synthetic
from logger.figures import Figure
from sanity_check import check_trainer
from storage.checkpoint_file import load_checkpoint
from storage.non_finite_guard import fit_with_recovery
from trainer.classifier import Classifier
from utils.command import run_command
from utils.parallel import local_tensor
from utils.process_group import all_gather_object, destroy_process_group, initialize_process_group
from utils.randomness import seed_everything
from utils.ranks import is_main_process, rank

VALIDATION_SAMPLES = 50
FAILING_STEP = 2  # steps made before the one in which something happens
STEPS_PER_EPOCH = 11
DROPOUT_BATCHES = 3  # whose dropout masks are saved
CONFIG = Path(__file__).resolve().parent.parent / "config/synthetic.yaml"
OPTIONS = (
    "device=cpu",
    "data.batch_size=12",
    "trainer.epochs=2",
    "trainer.precision=fp32",
    "optimizer.lr=0.02",
    "logger.tensorboard=false",
    "logger.every_steps=5",
)


class DropoutNetwork(BaseModel):
    """A network with dropout that records its dropout masks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.masks: list[Tensor] = []

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        scale = nn.functional.dropout(torch.ones(784), 0.5, self.training)
        self.masks.append(scale > 0)
        logits: Tensor = self.head(input.flatten(1) * scale)
        return logits


class UnusedLayer(BaseModel):
    """Has a layer that its forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.unused = nn.Linear(2, 2)

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        return self.head(input.flatten(1))


class SometimesUnusedLayer(UnusedLayer):
    """In the last step of the first epoch, the second process does not use a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        logits = super().forward(input)
        self.steps += self.training
        is_left_out = rank() == 1 and self.steps == STEPS_PER_EPOCH
        if is_left_out:
            return logits
        return logits + self.unused(logits[:, :2]).sum(1, keepdim=True)


class DifferentLayers(BaseModel):
    """Uses another layer, of the same size, in each of two processes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(784, 10), nn.Linear(784, 10)])

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        logits: Tensor = self.heads[rank()](input.flatten(1))
        return logits


class UnwrappedModelTrainer(Classifier):
    """Calls the model itself and not the wrapped one, so that gradients are not exchanged."""

    def update(self, step: Step) -> dict[str, Tensor]:
        outputs = self.training_step(self.model, step.batches[0])
        outputs["loss"].backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return outputs


class FailingTrainer(Classifier):
    """Raises an error in the second process."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if rank() == 1 and self.progress.step == FAILING_STEP:
            raise ZeroDivisionError("error of the second process")
        return super().training_step(model, batch)


class FailingEvaluation(Classifier):
    """Cannot evaluate in the second process, after the first epoch."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        if rank() == 1 and self.progress.step > 0:
            raise ZeroDivisionError("error of the second process")
        super().evaluation_step(model, batch)


class FailingFigures(Classifier):
    """Cannot draw its results in any process."""

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        """Raises an error."""
        raise ZeroDivisionError(f"error of process {rank()}")


class FailingFiguresOnce(Classifier):
    """Cannot draw its results in the second process, for which the other one waits."""

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        """Raises an error in the second process."""
        if rank() == 1:
            raise ZeroDivisionError("error of the second process")
        return super().figures(split, results)


class NonFiniteTrainer(Classifier):
    """Has a loss of NaN in one step of the second process."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = super().training_step(model, batch)
        if rank() == 1 and self.progress.step == FAILING_STEP and model.training:
            outputs["loss"] = outputs["loss"] * torch.nan
        return outputs


class FullDiskTrainer(Classifier):
    """Cannot write large files in the second process after one of the steps."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if rank() == 1 and self.progress.step == FAILING_STEP:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return super().training_step(model, batch)


# Other jobs, except for those in kinds.py, use the Classifier.
JOBS = {
    "unwrapped-model": Kind(trainer=UnwrappedModelTrainer),
    "error": Kind(trainer=FailingTrainer),
    "non-finite": Kind(trainer=NonFiniteTrainer),
    "full-disk": Kind(trainer=FullDiskTrainer),
    "dropout": Kind(model=DropoutNetwork),
    "unused": Kind(model=UnusedLayer),
    "sometimes-unused": Kind(model=SometimesUnusedLayer),
    "different-layers": Kind(model=DifferentLayers),
    "failing-evaluation": Kind(trainer=FailingEvaluation),
    "failing-figures": Kind(trainer=FailingFigures),
    "failing-figures-once": Kind(trainer=FailingFiguresOnce),
}


def run_job(job: str, run: Path, *changes: str) -> None:
    """Trains, from the last checkpoint in the run folder if there is one."""
    kind = KINDS[job] if job in KINDS else JOBS.get(job, Kind())
    settings = load_settings(CONFIG, [*OPTIONS, *kind.settings, *changes])
    seed_everything(settings.seed)
    train = fit_dataset(kind.make_dataset("train"))
    loaders = {"train": build_loader(settings, train, training=True)}
    for name in ("validation", *settings.data.validation_sets):
        validation = kind.make_dataset("validation")
        validation.load_state_dict(train.state_dict())
        loaders[name] = build_loader(settings, validation)
    if kind.model is None:
        model = build_model(settings, train)
    else:
        model = kind.model()
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    trainer = kind.trainer(
        settings=settings,
        model=model.double(),
        loaders=loaders,
        run=run,
        **settings.trainer.arguments,
    )
    check_trainer(trainer)
    checkpoint = run / "checkpoints/last.pt"
    if checkpoint.exists():
        trainer.load_state_dict(load_checkpoint(checkpoint))
    fit_with_recovery(trainer)

    if isinstance(model, DropoutNetwork):
        save_of_all(torch.stack(model.masks[:DROPOUT_BATCHES]), run / "masks.pt")
    if job == "memory":
        save_of_all(stored_bytes(trainer), run / "stored_bytes.pt")


def stored_bytes(trainer: BaseTrainer) -> tuple[int, int]:
    """Bytes of parameters and of optimizer state that this process stores."""
    parameter_bytes = sum(local_tensor(p).nbytes for p in trainer.model.parameters())
    state_bytes = 0
    for optimizer in trainer.optimizers:
        for parameter_state in optimizer.state.values():
            for value in parameter_state.values():
                if value.ndim > 0:
                    state_bytes += local_tensor(value).nbytes
    return parameter_bytes, state_bytes


def save_of_all(value: Any, file: Path) -> None:
    """Saves the values of all processes in one file, by rank."""
    values = all_gather_object(value)
    if is_main_process():
        torch.save(values, file)


def main() -> None:
    """Runs jobs one after another, because starting takes longer than training."""
    initialize_process_group(torch.device("cpu"))
    synthetic.TRAINING = 300
    synthetic.VALIDATION = VALIDATION_SAMPLES
    for job_line in " ".join(sys.argv[1:]).split(" -- "):
        job, run, *changes = job_line.split()
        run_job(job, Path(run), *changes)
        all_gather_object(None)  # the other processes may read what one has written
    destroy_process_group()


if __name__ == "__main__":
    run_command(main)
