"""The settings: each one's name, type, range and default, with its meaning below it.

The same schema checks YAML files and ``KEY=VALUE`` arguments, fills `--help` and makes
``schema.json`` for editors. It imports no torch, so that a typo is told at once.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(pydantic.BaseModel):
    """Settings that belong together: strict types, no unknown keys, not to be changed."""

    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ClassSection(Section):
    """Names a class; the keys that are not listed here are its constructor's arguments."""

    model_config = pydantic.ConfigDict(extra="allow")

    package: ClassVar[str]  # the folder that the class is looked for in
    given: ClassVar[frozenset[str]] = frozenset()  # arguments that are not settings
    arguments: ClassVar[set[str]] = set()  # names of those that are
    name: str
    """A class in the section's folder (data_loader/, model/ or trainer/), as file.Class."""


class DataSettings(ClassSection):
    """Where samples come from and how they are grouped."""

    package = "data_loader"
    given = frozenset({"root", "split", "seed"})
    root: Path = Path("data")
    """Folder of the data; the environment variable DATA_ROOT overrides what a file says."""
    batch_size: int = Field(256, ge=1, le=2**31)
    """Samples in one batch."""
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Processes that prepare batches; by default none for data in memory, else one a core."""


class ModelSettings(ClassSection):
    """The network and what it starts from."""

    package = "model"
    init_from: Path | None = None
    """Run folder or checkpoint file to take matching weights from."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained, as name patterns such as "stem.*"."""


class TrainerSettings(ClassSection):
    """How the model is trained."""

    package = "trainer"
    given = frozenset({"settings", "run"})
    epochs: Count = 5
    """Times that the training set is gone through."""
    max_steps: Count | None = None
    """Stop after so many optimizer steps, if that comes before the last epoch's end."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward pass; auto is bf16 where the hardware has it, else fp32."""
    tf32: bool = False
    """Let matrix products of float32 be less precise, as TensorFloat-32, where that is faster."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """What each of several processes holds: the whole model (ddp, which is auto), or a share."""
    compile: bool = False
    """Compile the model with torch.compile."""
    accumulate: Count = 1
    """Batches whose gradients are added up for one optimizer step."""
    clip_norm: Positive | None = None
    """Largest allowed norm of all gradients together."""
    ema: Fraction | None = None
    """Decay of the weights' moving average, which is then what is evaluated, e.g. 0.999."""
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread over all classes, for a classifier."""
    balanced: bool = False
    """Weigh samples by how rare their class is, for a classifier."""
    early_stop: Count | None = None
    """Stop after so many epochs without a better checkpoint.monitor."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss or gradient is no number: end, or leave the step out."""
    profile: Count | None = None
    """Look at so many steps first: a table of where their time goes, and a trace of torch's."""


class SGD(Section):
    """Stochastic gradient descent, torch.optim.SGD."""

    name: Literal["SGD"] = "SGD"
    lr: Positive = 0.1
    """Highest learning rate."""
    momentum: Fraction = 0.9
    """Share of the last update that is kept."""
    weight_decay: NonNegative = 0.0
    """Pull of the weights towards zero."""
    nesterov: bool = False
    """Look ahead along the momentum."""


class AdamW(Section):
    """Adam with decoupled weight decay, torch.optim.AdamW."""

    name: Literal["AdamW"] = "AdamW"
    lr: Positive = 1e-3
    """Highest learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegative = 1e-2
    """Pull of the weights towards zero."""


class RMSprop(Section):
    """Gradient over its running root mean square, torch.optim.RMSprop."""

    name: Literal["RMSprop"] = "RMSprop"
    lr: Positive = 1e-3
    """Highest learning rate."""
    alpha: Fraction = 0.99
    """Decay of the average of the squared gradient."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    momentum: Fraction = 0.0
    """Share of the last update that is kept."""
    weight_decay: NonNegative = 0.0
    """Pull of the weights towards zero."""


class Muon(Section):
    """Orthogonalised momentum for matrices, torch.optim.Muon; AdamW for all other parameters."""

    name: Literal["Muon"] = "Muon"
    lr: Positive = 0.02
    """Highest learning rate of the matrices."""
    momentum: Fraction = 0.95
    """Share of the last update that is kept."""
    weight_decay: NonNegative = 0.0
    """Pull of the weights towards zero."""
    adamw_lr: Positive = 1e-3
    """Highest learning rate of the parameters that are no matrices."""


class Constant(Section):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"


class Step(Section):
    """The learning rate is multiplied by `factor` every `epochs` epochs."""

    name: Literal["step"] = "step"
    epochs: Count = 10
    """Epochs between two reductions."""
    factor: Positive = 0.1
    """What a reduction multiplies by."""


class Exponential(Section):
    """The learning rate of epoch e is `lr * factor**e`."""

    name: Literal["exponential"] = "exponential"
    factor: Positive = 0.95
    """What every new epoch multiplies by."""


class Cosine(Section):
    """Linear warm-up, then half a cosine down (Loshchilov and Hutter, arXiv:1608.03983)."""

    name: Literal["cosine"] = "cosine"
    warmup: Fraction = 0.0
    """Share of all steps in which the rate rises."""
    start: Fraction = 0.0
    """Rate that it rises from, as a share of the highest."""
    final: Fraction = 0.0
    """Rate that it falls to, as a share of the highest."""


class OneCycle(Section):
    """Straight up, then straight down (Smith and Topin, arXiv:1708.07120)."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Fraction = 0.25
    """Share of all steps in which the rate rises."""
    start: Fraction = 0.1
    """Rate that it rises from, as a share of the highest."""
    final: Fraction = 0.0
    """Rate that it falls to, as a share of the highest."""


class CheckpointSettings(Section):
    """What is saved when."""

    every_steps: Count | None = None
    """Save after so many optimizer steps too, not only at the end of each epoch."""
    every_minutes: Positive | None = None
    """Save after so many minutes too."""
    keep: Count = 2
    """Newest step_*.pt files that are kept; the best is kept as well."""
    monitor: str = "loss"
    """Validation metric that chooses best.pt and that early stopping watches."""


class LoggerSettings(Section):
    """What is written down when."""

    every_steps: Count = 50
    """Optimizer steps between two log entries; what is logged is their mean."""
    tensorboard: bool = True
    """Write TensorBoard files, with pictures of the first inputs and of the last results."""
    tracker: str = "none"
    """What else shows all of that, such as mlflow where there is logger/mlflow_tracker.py."""


CHOICE = Field(discriminator="name")
Optimizer = Annotated[SGD | AdamW | RMSprop | Muon, CHOICE]
Scheduler = Annotated[Constant | Step | Exponential | Cosine | OneCycle, CHOICE]


class Settings(Section):
    """Everything that a run depends on."""

    name: str = Field("", pattern=r"^([^./\\][^/\\]*)?$")
    """Folder of the runs in runs/; by default the name of the YAML file."""
    seed: int = Field(0, ge=0, lt=2**32)
    """What order, augmentation, weights and dropout are drawn from."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, xpu, ..."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; some are slower."""
    data: DataSettings
    model: ModelSettings
    trainer: TrainerSettings
    optimizer: Optimizer = SGD()
    scheduler: Scheduler = Constant()
    checkpoint: CheckpointSettings = CheckpointSettings()
    logger: LoggerSettings = LoggerSettings()
