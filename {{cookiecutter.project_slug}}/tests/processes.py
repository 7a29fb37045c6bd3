"""What test_distributed.py has several processes do: python tests/processes.py JOB."""

import os
import resource
import signal
import sys
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from base.base_dataset import Batch
from base.base_model import BaseModel
from base.batch_loader import Step
from builders import build_loader, build_model
from config.loading import load_settings
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier
from utils.command import run_command
from utils.parallel import local_tensor
from utils.process_group import all_gather_object, destroy_process_group, initialize_process_group
from utils.randomness import seed_everything
from utils.ranks import is_main_process, rank

SAMPLES = 121  # in batches of 24, so that the last one has a sample for one process alone
CONFIG = Path(__file__).resolve().parent.parent / "config/synthetic.yaml"
QUICK = ("device=cpu", "data.batch_size=12", "trainer.epochs=2", "optimizer.lr=0.02")
EXACT = ("trainer.precision=fp32", "logger.tensorboard=false", "logger.every_steps=5")


class Exact(Synthetic):
    """Few images, in double precision."""

    def __init__(self, split: str) -> None:
        super().__init__(Path(), split, 0)
        self.images, self.targets = self.images[:SAMPLES], self.targets[:SAMPLES]

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        batch = super().transform(batch, generator)
        return {**batch, "input": batch["input"].double()}


class Dropping(BaseModel):
    """A network with dropout, which notes what it has dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)
        self.kept = list[Tensor]()

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        kept = nn.functional.dropout(torch.ones(784), 0.5, self.training)
        self.kept.append(kept > 0)
        logits: Tensor = self.head(input.flatten(1) * kept)
        return logits


class Bypassing(Classifier):
    """Trains the model that it was given, and not the one that is spread over the processes."""

    def update(self, step: Step) -> dict[str, Tensor]:
        outputs = self.training_step(self.model, step.batches[0])
        outputs["loss"].backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return outputs


class Failing(Classifier):
    """Meets an error in the second process."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if rank() == 1 and self.progress.step == 2:
            raise ZeroDivisionError("of the second process")
        return super().training_step(model, batch)


class Breaking(Classifier):
    """Has a loss that is no number in the third step of the second process."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        scalars = super().training_step(model, batch)
        bad = rank() == 1 and self.progress.step == 2 and model.training
        return {**scalars, "loss": scalars["loss"] * (torch.nan if bad else 1)}


class Filling(Classifier):
    """Has no room for more on the second process's disk after the third step."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if rank() == 1 and self.progress.step == 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return super().training_step(model, batch)


def held(trainer: Classifier) -> tuple[int, int]:
    """The bytes of parameters, and of what optimizers keep of them, in this process."""
    kept = [v for one in trainer.optimizers for s in one.state.values() for v in s.values()]
    weights, moments = trainer.model.parameters(), (v for v in kept if v.ndim)
    return sum(local_tensor(p).nbytes for p in weights), sum(
        local_tensor(v).nbytes for v in moments
    )


def train(job: str, run: Path, *changes: str) -> None:
    """Trains as the job says, from the last checkpoint in the folder if there is one."""
    settings = load_settings(CONFIG, [*QUICK, *EXACT, *changes])
    seed_everything(settings.seed)
    splits = {split: Exact(split) for split in ("train", "validation")}
    splits["validation"].load_state_dict(splits["train"].state_dict())
    loaders = {s: build_loader(settings, data, s == "train") for s, data in splits.items()}
    model = Dropping() if job == "dropping" else build_model(settings, splits["train"])
    kinds = {"bypassing": Bypassing, "failing": Failing, "breaking": Breaking, "filling": Filling}
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    kind = kinds.get(job, Classifier)
    trainer = kind(
        settings=settings,
        model=model.double(),
        loaders=loaders,
        run=run,
        **settings.trainer.arguments,
    )
    if (last := run / "checkpoints/last.pt").exists():
        trainer.load_state_dict(load_checkpoint(last))
    if job == "breaking":
        from storage.non_finite_guard import fit_with_recovery

        fit_with_recovery(trainer)
    else:
        trainer.fit()
    if isinstance(model, Dropping):
        kept = all_gather_object(torch.stack(model.kept[:3]))
        torch.save(kept, run / "kept.pt" if is_main_process() else os.devnull)
    if job == "holding":
        found = all_gather_object(held(trainer))
        torch.save(found, run / "held.pt" if is_main_process() else os.devnull)


def main() -> None:
    """Does jobs one after another, as to start takes longer than to train."""
    initialize_process_group(torch.device("cpu"))
    synthetic.TRAINING, synthetic.VALIDATION = 300, 50
    for words in " ".join(sys.argv[1:]).split(" -- "):
        job, run, *changes = words.split()
        train(job, Path(run), *changes)
        all_gather_object(None)  # what one has written, the others may read
    destroy_process_group()


if __name__ == "__main__":
    run_command(main)
