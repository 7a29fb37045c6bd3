"""Code of users: one class or setting for each kind of change, without a change of the project.

`processes.py` trains each kind in one process and in several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from base.base_dataset import BaseDataset, Batch
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from data_loader.synthetic import Synthetic
from trainer.classifier import Classifier
from utils.ranks import rank

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

# In steps of 24, the last step has one sample: the other processes have none. The 50 validation
# images in batches of 48 leave two, which three processes cannot share: the step before has them.
TRAINING_SAMPLES = 121
QUEUE_LENGTH = 16


class SmallDoubles(Synthetic):
    """A few images in double precision, so that the order of a sum hardly matters."""

    def __init__(self, split: str) -> None:
        super().__init__(Path(), split, 0)
        self.images = self.images[:TRAINING_SAMPLES]
        self.targets = self.targets[:TRAINING_SAMPLES]

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        batch = super().transform(batch, rng)
        return {**batch, "input": batch["input"].double()}


# Several optimizers, and autograd in a step


class Adversaries(Classifier):
    """Trains the head and the rest by two losses, each with an optimizer of its own."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        head: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            if name.startswith("head"):
                head.append(parameter)
            else:
                rest.append(parameter)
        return [torch.optim.SGD(head, lr=0.02), torch.optim.SGD(rest, lr=0.01, momentum=0.9)]

    def second_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": softplus(model(batch["input"])).mean()}

    def update(self, step: Step) -> dict[str, Tensor]:
        first, second = self.optimizers
        outputs = self.optimize(step, first)
        return {"second": self.optimize(step, second, self.second_step)["loss"], **outputs}


class Penalized(Classifier):
    """Adds the squared gradient of the loss with respect to the inputs."""

    evaluates_with_gradients = True

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = batch["input"].clone().requires_grad_()
        losses = self.loss(model(images), batch["target"], reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), images, create_graph=True)
        penalty = gradient.flatten(1).square().sum(1)
        return {"loss": (losses + penalty).mean(), "penalty": penalty.mean()}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Any:
        super().evaluation_step(model, batch)
        return {"penalized": self.training_step(model, batch)["loss"]}


# Batches and forward passes of any structure


@dataclass(frozen=True)
class Images:
    """Images and the noise that is added to them."""

    images: Tensor
    noise: dict[str, Tensor]


class NestedDoubles(SmallDoubles):
    """Tuples of a dataclass and the targets."""

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        batch = super().transform(batch, rng)
        images = batch["input"]
        return Images(images, {"noise": images.flip(2)}), [batch["target"]]


class TwoInputs(BaseModel):
    """Takes two inputs and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2 * 784, 10)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, images: Tensor, *, noise: Tensor) -> dict[str, Tensor]:
        """The logits, shape (N, 10), of two images, shape (N, 1, 28, 28)."""
        features = torch.cat([images.flatten(1), noise.flatten(1) / 2], dim=1)
        return {"logits": self.head(features)}


class Complex(BaseModel):
    """Has complex parameters."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.waves = nn.Parameter(torch.randn(784, 10, dtype=torch.complex128, generator=rng))

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        return (input.flatten(1).to(torch.complex128) @ self.waves).abs() / 28


class NestedTrainer(BaseTrainer):
    """Trains with nested batches; its metrics are of torchmetrics, its means are returned."""

    default_loss = "cross_entropy"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, _ = batch
        return model(inputs.images, noise=inputs.noise["noise"])["logits"]

    def predict_step(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.logits(model, batch)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        _, (target,) = batch
        return {"loss": self.loss(self.logits(model, batch), target)}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = self.logits(model, batch)
        _, (target,) = batch
        self.metrics.update(preds=logits, target=target, value=logits.std(1))
        return {"loss": self.loss(logits, target)}

    def configure_metrics(self) -> "MetricCollection":
        # Takes seconds to import, which the processes of most tests need not do.
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        metrics: Any = {"accuracy": MulticlassAccuracy(10, average="micro"), "spread": MeanMetric()}
        return MetricCollection(metrics)


# State


class Memory:
    """Has something to save in the first process only."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        """The steps; empty in other processes."""
        if rank() > 0:
            return {}
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the result of `state_dict`."""
        self.steps = list(state.get("steps", []))


class WithState(Classifier):
    """Has a queue of losses, a teacher network, and a number that differs between processes."""

    saved_attributes = ("queue", "local")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.queue = torch.zeros(QUEUE_LENGTH)
        self.local = {"samples": 0}
        self.memory = Memory()
        self.teacher = nn.Linear(784, 10).double().requires_grad_(False)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = super().training_step(model, batch)
        self.local["samples"] += len(batch["input"])
        weight = 1 + 0.1 * self.queue.mean() + 0.1 * self.teacher.weight.mean()
        return {**outputs, "loss": weight * outputs["loss"]}

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        self.queue = self.queue.roll(1)
        self.queue[0] = self.progress.step
        self.memory.steps.append(self.progress.step)
        self.teacher.weight *= 0.9


class Fitted(SmallDoubles):
    """Fits something that differs between processes."""

    fitted = ("mean_and_std", "offset")
    offset: float

    def fit(self) -> None:
        super().fit()
        self.offset = 0.1 * rank()

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        batch = super().transform(batch, rng)
        return {**batch, "input": batch["input"] + self.offset}


class Replay(SmallDoubles):
    """Keeps how often each sample was read, and darkens those that were read more often."""

    saved_attributes = ("reads",)

    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.reads = torch.zeros(len(self))


class ReplayTrainer(Classifier):
    """Changes the state of its data set."""

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        dataset: Any = self.dataset
        dataset.reads = dataset.reads + self.progress.step

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        dataset: Any = self.dataset
        outputs = super().training_step(model, batch)
        return {**outputs, "loss": outputs["loss"] / (1 + dataset.reads.mean())}


class Stopping(Classifier):
    """Ends the run after two validations."""

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        if self.progress.step >= 16:
            self.stop("the trainer has seen enough")


@dataclass(frozen=True)
class Kind:
    """A kind of change: classes and settings of a user."""

    settings: Sequence[str] = ()
    trainer: type[BaseTrainer] = Classifier
    dataset: type[SmallDoubles] = SmallDoubles
    model: type[BaseModel] | None = None
    shardable: bool = True

    def make_dataset(self, split: str) -> BaseDataset:
        """A split of the data set."""
        return self.dataset(split)


# JSON, because processes.py separates settings by spaces.
class LearnedScale(Classifier):
    """Trains a weight of its loss, which is no part of a module (Kendall et al., 2018)."""

    saved_attributes = ("scale",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [*super().configure_optimizers(), torch.optim.SGD([self.scale], lr=0.1)]

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = super().training_step(model, batch)
        return {"loss": outputs["loss"] * torch.exp(-self.scale) + self.scale}


KINDS: dict[str, Kind] = {
    "optimizer": Kind(['optimizer={"name":"Adam","betas":[0.8,0.99]}']),
    "closure": Kind(['optimizer={"name":"LBFGS","lr":0.05,"max_iter":6}']),
    "groups": Kind(
        [
            'optimizer.groups={"head.*":{"lr":0.05}}',
            "optimizer.no_decay=true",
            "model.layer_decay=0.9",
        ]
    ),
    "complex": Kind(
        ['optimizer={"name":"Adam","lr":0.01}', "trainer.ema=0.9", "trainer.clip_norm=1"],
        model=Complex,
        shardable=False,
    ),
    "schedule": Kind(['scheduler={"name":"warmup_stable_decay","warmup":0.1}']),
    "torch-schedule": Kind(
        ['scheduler={"name":"MultiStepLR","milestones":[3,7],"interval":"step"}']
    ),
    "loss": Kind(['loss={"name":"focal","gamma":1.5,"balanced":true}']),
    "optimizers": Kind(["trainer.clip_norm=0.5"], trainer=Adversaries),
    "weight-of-the-loss": Kind(trainer=LearnedScale),
    # FSDP frees the gathered parameters after the first backward pass of two.
    "autograd": Kind(
        ['model={"name":"networks.MLP","width":16}'], trainer=Penalized, shardable=False
    ),
    "batch": Kind(trainer=NestedTrainer, dataset=NestedDoubles, model=TwoInputs),
    "hooks": Kind(["trainer.validate_every_steps=8"], trainer=Stopping),
    "validation": Kind(['data.validation_sets={"plain":{}}', "checkpoint.monitor=plain/accuracy"]),
    "sampler": Kind(["data.sampler=balanced"]),
    "state": Kind(trainer=WithState),
    "fitted": Kind(dataset=Fitted),
    "data-state": Kind(trainer=ReplayTrainer, dataset=Replay),
}
