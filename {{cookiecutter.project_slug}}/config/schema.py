"""The typed settings: name, type, range, default and, below each one, its meaning.

The schema checks YAML files and ``KEY=VALUE`` arguments, fills `--help` and generates
``schema.json`` for editors. It does not import torch, so that errors are reported immediately.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class MayChangeOnResume:
    """Marks a setting, or a whole section, that may change when a run is resumed.

    A change of any other setting makes it a different run, which needs ``--force``. The mark is
    the outermost part of an annotation, here or in the constructor of a data set, model or
    trainer: ``Annotated[int | None, MayChangeOnResume()]``.
    """


class Section(pydantic.BaseModel):
    """A group of settings: strict types, no unknown keys, immutable."""

    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ClassSection(Section):
    """Names a class. Further keys are arguments of its constructor.

    The schema accepts any further key; `config.loading` imports the class and checks them.

    Attributes:
        package: the folder that contains the class.
        base: the class that it derives from, by its dotted path. It is text, because importing it
            would import torch.
        given: the arguments that code passes to the constructor, which are therefore not settings.
    """

    model_config = pydantic.ConfigDict(extra="allow")

    package: ClassVar[str]
    base: ClassVar[str]
    given: ClassVar[frozenset[str]]
    name: str
    """The class, as FILE.Class; FILE.py is in data_loader/, model/ or trainer/."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings of the class, by the name of the constructor's parameter."""
        return dict(self.model_extra or {})


class DataSettings(ClassSection):
    """The data set and how it is loaded."""

    package = "data_loader"
    base = "base.base_dataset.BaseDataset"
    given = frozenset({"root", "split", "seed"})
    root: Annotated[Path, MayChangeOnResume()] = Path("data")
    """Folder of the data. The environment variable DATA_ROOT overrides the settings file."""
    batch_size: int = Field(256, ge=1, le=2**31)
    """Samples in a batch."""
    workers: Annotated[Annotated[int, Field(ge=0, le=1024)] | None, MayChangeOnResume()] = None
    """Processes that load batches; default: 0 for data in memory, else one per CPU core."""


class ModelSettings(ClassSection):
    """The network and its initial weights."""

    package = "model"
    base = "base.base_model.BaseModel"
    given = frozenset({"dataset"})
    init_from: Annotated[Path | None, MayChangeOnResume()] = None
    """Run folder or checkpoint file from which matching weights are copied."""
    freeze: tuple[str, ...] = ()
    """Patterns of the names of parameters that are not trained, such as "stem.*"."""


class TrainerSettings(ClassSection):
    """How the model is trained."""

    package = "trainer"
    base = "base.base_trainer.BaseTrainer"
    given = frozenset({"settings", "model", "loaders", "run"})
    epochs: Annotated[Count, MayChangeOnResume()] = 5
    """Passes over the training set."""
    max_steps: Annotated[Count | None, MayChangeOnResume()] = None
    """Largest number of optimizer steps; training may end before its last epoch."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], MayChangeOnResume()] = "auto"
    """Autocast dtype; auto selects bf16 if the hardware supports it, else fp32 (no autocast)."""
    tf32: Annotated[bool, MayChangeOnResume()] = False
    """Allow TensorFloat-32 in float32 matrix products: faster and less precise."""
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], MayChangeOnResume()] = "auto"
    """With several processes: ddp replicates the model, fsdp shards its parameters; auto is ddp."""
    compile: Annotated[bool, MayChangeOnResume()] = False
    """Compile the model with torch.compile."""
    accumulate: Count = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    clip_norm: Annotated[Positive | None, MayChangeOnResume()] = None
    """Maximum norm of the gradients; larger ones are scaled down to it."""
    ema: Fraction | None = None
    """Decay of the exponential moving average of the weights, which is evaluated, e.g. 0.999."""
    early_stop: Annotated[Count | None, MayChangeOnResume()] = None
    """Stop after this number of epochs without an improvement of checkpoint.monitor."""
    non_finite: Annotated[Literal["stop", "skip"], MayChangeOnResume()] = "stop"
    """Reaction to a non-finite loss or gradient: stop training, or skip the step."""
    profile: Annotated[Count | None, MayChangeOnResume()] = None
    """Steps to profile before training: a table of the time they take and a torch trace."""


class SGD(Section):
    """Stochastic gradient descent, torch.optim.SGD."""

    name: Literal["SGD"] = "SGD"
    lr: Annotated[Positive, MayChangeOnResume()] = 0.1
    """Highest learning rate."""
    momentum: Fraction = 0.9
    """Momentum factor."""
    weight_decay: Annotated[NonNegative, MayChangeOnResume()] = 0.0
    """Weight decay (L2 penalty)."""
    nesterov: bool = False
    """Use Nesterov momentum."""


class AdamW(Section):
    """Adam with decoupled weight decay, torch.optim.AdamW."""

    name: Literal["AdamW"] = "AdamW"
    lr: Annotated[Positive, MayChangeOnResume()] = 1e-3
    """Highest learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the running averages of the gradient and of its square."""
    eps: Positive = 1e-8
    """Term added to the denominator for numerical stability."""
    weight_decay: Annotated[NonNegative, MayChangeOnResume()] = 1e-2
    """Decoupled weight decay."""


class RMSprop(Section):
    """Gradient divided by its running root mean square, torch.optim.RMSprop."""

    name: Literal["RMSprop"] = "RMSprop"
    lr: Annotated[Positive, MayChangeOnResume()] = 1e-3
    """Highest learning rate."""
    alpha: Fraction = 0.99
    """Decay rate of the running average of the squared gradient."""
    eps: Positive = 1e-8
    """Term added to the denominator for numerical stability."""
    momentum: Fraction = 0.0
    """Momentum factor."""
    weight_decay: Annotated[NonNegative, MayChangeOnResume()] = 0.0
    """Weight decay (L2 penalty)."""


class Muon(Section):
    """Orthogonalised momentum for matrices, torch.optim.Muon; AdamW for all other parameters."""

    name: Literal["Muon"] = "Muon"
    lr: Annotated[Positive, MayChangeOnResume()] = 0.02
    """Highest learning rate of the matrices."""
    momentum: Fraction = 0.95
    """Momentum factor."""
    weight_decay: Annotated[NonNegative, MayChangeOnResume()] = 0.0
    """Decoupled weight decay of the matrices."""
    adamw_lr: Annotated[Positive, MayChangeOnResume()] = 1e-3
    """Highest learning rate of AdamW for all other parameters."""


class Constant(Section):
    """Constant learning rate."""

    name: Literal["constant"] = "constant"


class Step(Section):
    """The learning rate is multiplied by `factor` every `epochs` epochs."""

    name: Literal["step"] = "step"
    epochs: Count = 10
    """Epochs between two reductions of the learning rate."""
    factor: Positive = 0.1
    """Factor by which each reduction multiplies the learning rate."""


class Exponential(Section):
    """The learning rate of epoch e is `lr * factor**e`."""

    name: Literal["exponential"] = "exponential"
    factor: Positive = 0.95
    """Factor by which the learning rate is multiplied after each epoch."""


class Cosine(Section):
    """Linear warm-up, then cosine decay (Loshchilov and Hutter, arXiv:1608.03983)."""

    name: Literal["cosine"] = "cosine"
    warmup: Fraction = 0.0
    """Length of the warm-up as a fraction of all steps."""
    start: Fraction = 0.0
    """Initial learning rate as a fraction of the highest."""
    final: Fraction = 0.0
    """Final learning rate as a fraction of the highest."""


class OneCycle(Section):
    """Linear warm-up, then linear decay (Smith and Topin, arXiv:1708.07120)."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Fraction = 0.25
    """Length of the warm-up as a fraction of all steps."""
    start: Fraction = 0.1
    """Initial learning rate as a fraction of the highest."""
    final: Fraction = 0.0
    """Final learning rate as a fraction of the highest."""


class CheckpointSettings(Section):
    """When checkpoints are saved, and which are kept."""

    every_steps: Count | None = None
    """Optimizer steps between two checkpoints, in addition to one at the end of each epoch."""
    every_minutes: Positive | None = None
    """Minutes between two checkpoints, in addition to one at the end of each epoch."""
    keep: Count = 2
    """Number of the newest step_*.pt files to keep, in addition to best.pt."""
    monitor: str = "loss"
    """Validation metric that selects best.pt and controls early stopping."""


class LoggerSettings(Section):
    """What is logged, and how often."""

    every_steps: Count = 50
    """Optimizer steps between two log entries, which contain the mean over these steps."""
    tensorboard: bool = True
    """Write TensorBoard files, with figures of the first inputs and of the last results."""
    tracker: str = "none"
    """Experiment tracker: none, or NAME if the project has logger/NAME_tracker.py."""


Optimizer = Annotated[SGD | AdamW | RMSprop | Muon, Field(discriminator="name")]
Scheduler = Annotated[
    Constant | Step | Exponential | Cosine | OneCycle, Field(discriminator="name")
]


class Settings(Section):
    """All settings of a run."""

    name: Annotated[str, MayChangeOnResume()] = Field("", pattern=r"^([^./\\][^/\\]*)?$")
    """Folder in runs/ for the run folders; default: the name of the YAML file."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Random seed: initial weights, order of the samples, augmentation, dropout."""
    device: Annotated[str, MayChangeOnResume()] = "auto"
    """auto, cpu, cuda, cuda:1, mps, xpu, ..."""
    deterministic: Annotated[bool, MayChangeOnResume()] = False
    """Use only deterministic algorithms; some are slower."""
    data: DataSettings
    model: ModelSettings
    trainer: TrainerSettings
    optimizer: Optimizer = SGD()
    scheduler: Annotated[Scheduler, MayChangeOnResume()] = Constant()
    checkpoint: Annotated[CheckpointSettings, MayChangeOnResume()] = CheckpointSettings()
    logger: Annotated[LoggerSettings, MayChangeOnResume()] = LoggerSettings()


def section_kinds(field: FieldInfo) -> list[type[Section]]:
    """The kinds of section that a field accepts: none for a single setting."""
    kinds: list[type[Section]] = []
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            kinds.append(kind)
    return kinds
