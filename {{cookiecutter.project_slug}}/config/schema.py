"""The typed settings: name, type, range, default and, below each one, its meaning.

The schema checks YAML files and ``KEY=VALUE`` arguments, fills `--help` and generates
``schema.json`` for editors. It does not import torch, so that errors are reported immediately.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from utils.paths import check_path, check_web_address

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
UserPath = Annotated[Path, BeforeValidator(check_path)]  # with ~ for the home folder
NO_CLASS = "none"  # the name of no class, where a section allows it


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
    """Names a class, or a function. Further keys are arguments of the constructor or function.

    The schema accepts any further key; `config.loading` imports the class and checks them.

    Attributes:
        package: the folder that contains the class.
        base: the class that it derives from, by its dotted path. It is text, because importing it
            would import torch.
        project_base: the same for the classes in the folder, if theirs is another one.
        given: the arguments that code passes to the constructor, which are therefore not settings.
        positional: the number of leading parameters of a function that code passes as well.
        functions: a file in the folder whose functions can be named as well, without a prefix.
        libraries: packages whose classes can be named as well; those of the first one need no
            prefix. The others may be missing.
        may_be_none: whether the name ``none`` is allowed, which stands for no class.
        argument_types: types of arguments, by name, where they are stricter than in the classes.
    """

    model_config = pydantic.ConfigDict(extra="allow")

    package: ClassVar[str]
    base: ClassVar[str]
    project_base: ClassVar[str] = ""
    given: ClassVar[frozenset[str]]
    functions: ClassVar[str] = ""
    positional: ClassVar[int] = 0
    libraries: ClassVar[tuple[str, ...]] = ()
    may_be_none: ClassVar[bool] = False
    argument_types: ClassVar[dict[str, Any]] = {}
    name: str
    """The class, as FILE.Class; FILE.py is in data_loader/, model/ or trainer/."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings of the class, by the name of the constructor's parameter."""
        return dict(self.model_extra or {})


class SamplerSettings(ClassSection):
    """The order of the training samples. Further keys are arguments of the function or class."""

    package = "data_loader"
    functions = "samplers"
    base = "base.base_sampler.BaseSampler"
    given = frozenset({"dataset", "seed", "epoch", "step_size", "samples"})
    name: str = "shuffled"
    """A function of data_loader/samplers.py, or FILE.NAME: a function or class of another file."""


def name_to_mapping(value: Any) -> Any:
    """A name alone, as in data.sampler=balanced, as the mapping that a section needs."""
    if isinstance(value, str):
        return {"name": value}
    return value


class DataSettings(ClassSection):
    """The data set and how it is loaded."""

    package = "data_loader"
    base = "base.base_dataset.BaseDataset"
    given = frozenset({"root", "split", "seed", "create_example"})
    root: Annotated[UserPath, MayChangeOnResume()] = Path("data")
    """Folder of the data. The environment variable DATA_ROOT overrides the settings file."""
    batch_size: int = Field(256, ge=1, le=2**31)
    """Samples in a batch."""
    drop_last: bool = False
    """Leave out the last batch of a training epoch if it is smaller than the others."""
    workers: Annotated[Annotated[int, Field(ge=0, le=1024)] | None, MayChangeOnResume()] = None
    """Processes that load batches; default: 0 for data in memory, else one per CPU core."""
    sampler: Annotated[
        SamplerSettings,
        BeforeValidator(name_to_mapping, json_schema_input_type=str | SamplerSettings),
    ] = SamplerSettings()
    """Order of the training samples: a name, or a mapping with a name and arguments."""
    validation_sets: Annotated[dict[str, dict[str, Any]], MayChangeOnResume()] = {}
    """Further sets to validate on, by name: {shifted: {name: my_data.Shifted}}.

    The values are data settings that differ from those of this section."""


class ModelSettings(ClassSection):
    """The network, its initial weights, and which of them are trained how fast."""

    package = "model"
    base = "base.base_model.BaseModel"
    given = frozenset({"dataset"})
    init_from: Annotated[UserPath | None, MayChangeOnResume()] = None
    """Run folder, or file or folder of weights, from which those that match are copied."""
    freeze: tuple[str, ...] = ()
    """Patterns of the names of parameters that are not trained, such as "stem.*"."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer relative to that of the next one, for fine-tuning."""


class LossSettings(ClassSection):
    """What is minimized. Further keys are arguments of the function or class."""

    package = "model"
    functions = "losses"
    base = "torch.nn.modules.loss._Loss"  # the base class of the losses of torch.nn
    project_base = "torch.nn.Module"
    given = frozenset({"weight", "scale", "reduction"})
    positional = 2  # the outputs and the targets
    libraries = ("torch.nn",)
    may_be_none = True
    name: str = NO_CLASS
    """A function of model/losses.py, a loss of torch.nn, or FILE.NAME; default: the trainer's."""
    class_weights: tuple[NonNegative, ...] = ()
    """Weight of the samples of each class."""
    balanced: bool = False
    """Weight samples by the inverse frequency of their class."""


class TrainerSettings(ClassSection):
    """How the model is trained."""

    package = "trainer"
    base = "base.base_trainer.BaseTrainer"
    given = frozenset({"settings", "model", "loaders", "run"})
    epochs: Annotated[Count, MayChangeOnResume()] = 5
    """Passes over the training set."""
    max_steps: Annotated[Count | None, MayChangeOnResume()] = None
    """Largest number of optimizer steps; training may end before its last epoch."""
    max_minutes: Annotated[Positive | None, MayChangeOnResume()] = None
    """Largest training time of all starts of a run together, validations included."""
    overfit: Count | None = None
    """Train and validate on the first batches of the training set alone, without augmentation.

    This number of batches shows whether the model can learn at all; the results are not real."""
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Train and validate on this fraction of the samples, to try something out quickly."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], MayChangeOnResume()] = "auto"
    """Autocast dtype; auto selects bf16 if the hardware supports it, else fp32 (no autocast)."""
    tf32: Annotated[bool, MayChangeOnResume()] = False
    """Allow TensorFloat-32 in float32 matrix products: faster and less precise."""
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], MayChangeOnResume()] = "auto"
    """With several processes: ddp replicates the model, fsdp shards its parameters; auto is ddp."""
    find_unused_parameters: Annotated[bool, MayChangeOnResume()] = False
    """With several processes, let parameters have no gradient in some steps (DDP); slower."""
    compile: Annotated[bool, MayChangeOnResume()] = False
    """Compile the model with torch.compile."""
    accumulate: Count = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    clip_norm: Annotated[Positive | None, MayChangeOnResume()] = None
    """Maximum norm of the gradients; larger ones are scaled down to it."""
    ema: Fraction | None = None
    """Decay of the exponential moving average of the weights, which is evaluated, e.g. 0.999."""
    validate_every_epochs: Annotated[Count, MayChangeOnResume()] = 1
    """Epochs between two validations."""
    validate_every_steps: Annotated[Count | None, MayChangeOnResume()] = None
    """Optimizer steps between two validations, instead of validate_every_epochs."""
    early_stop: Annotated[Count | None, MayChangeOnResume()] = None
    """Stop after this number of validations without an improvement of checkpoint.monitor."""
    non_finite: Annotated[Literal["stop", "skip"], MayChangeOnResume()] = "stop"
    """Reaction to a non-finite loss or weight: stop training, or skip the step."""
    profile: Annotated[Count | None, MayChangeOnResume()] = None
    """Steps to profile before training: a table of the time they take and a torch trace."""


class OptimizerSettings(ClassSection):
    """The optimizer and its parameter groups. Further keys are arguments of the optimizer.

    To name the optimizers of another package, add it to `libraries`.
    """

    package = "optim"
    base = "torch.optim.Optimizer"
    given = frozenset({"params"})
    libraries = ("torch.optim", "schedulefree", "timm.optim", "pytorch_optimizer")
    argument_types: ClassVar[dict[str, Any]] = {
        "lr": Annotated[Positive, MayChangeOnResume()],
        "adamw_lr": Annotated[Positive, MayChangeOnResume()],
        "weight_decay": Annotated[NonNegative, MayChangeOnResume()],
    }
    name: str = "SGD"
    """A class of torch.optim, FILE.Class of optim/FILE.py, or PACKAGE.Class (timm.optim.Lamb)."""
    no_decay: bool | None = None
    """No weight decay for biases and normalisation layers; default: true for AdamW, else false."""
    groups: dict[str, dict[str, Any]] = {}
    """Other arguments for some parameters, by patterns of their names: {"stem.*": {lr: 1e-4}}."""


class SchedulerSettings(ClassSection):
    """The learning rate schedule. Further keys are arguments of the function or class."""

    package = "optim"
    functions = "schedules"
    base = "torch.optim.lr_scheduler.LRScheduler"
    given = frozenset(
        {"progress", "step", "warmup_steps", "total_steps", "steps_per_epoch", "optimizer"}
    )
    libraries = ("torch.optim.lr_scheduler",)
    name: str = "constant"
    """A function of optim/schedules.py, a class of torch.optim.lr_scheduler, or FILE.NAME."""
    warmup: Fraction = 0.0
    """Length of the linear warm-up before a function, as a fraction of all steps."""
    start: Fraction = 0.0
    """Rate before the warm-up, as a fraction of the highest."""
    span: Literal["steps", "minutes"] = "steps"
    """What a function spans: all steps, or the training time in trainer.max_minutes."""
    interval: Literal["step", "epoch"] = "epoch"
    """When a class of torch.optim.lr_scheduler makes a step."""


class CheckpointSettings(Section):
    """When checkpoints are saved, and which are kept."""

    every_steps: Count | None = None
    """Optimizer steps between two checkpoints, in addition to one after each validation."""
    every_minutes: Positive | None = None
    """Minutes between two checkpoints, in addition to one after each validation."""
    background: bool = False
    """Write checkpoints while training continues, from a copy of the state in host memory.

    With FSDP, they always are."""
    keep: Count = 2
    """Number of the newest step_*.pt files to keep, in addition to best.pt."""
    keep_best: Count = 1
    """Number of the best validated checkpoints to keep; with 2 or more, also as step_*.pt."""
    monitor: str = "loss"
    """Validation metric that selects best.pt and controls early stopping.

    SET/METRIC is a metric of one of data.validation_sets."""
    mode: Literal["min", "max"] | None = None
    """Whether lower (min) or higher (max) values of it are better; default: what it defines."""


class LoggerSettings(Section):
    """What is logged, and how often."""

    every_steps: Count = 50
    """Optimizer steps between two log entries, which contain the mean over these steps."""
    tensorboard: bool = True
    """Write TensorBoard files, with figures of the first inputs and of the last results."""
    curves: bool = True
    """Draw RUN/curves.png when the run ends."""
    tracker: str = "none"
    """Experiment tracker: none, or NAME if the project has logger/NAME_tracker.py."""
    notify: Annotated[str, BeforeValidator(check_web_address)] | None = None
    """Web address to which a line of JSON is posted when a run ends, such as a webhook of Slack."""


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
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    scheduler: Annotated[SchedulerSettings, MayChangeOnResume()] = SchedulerSettings()
    checkpoint: Annotated[CheckpointSettings, MayChangeOnResume()] = CheckpointSettings()
    logger: Annotated[LoggerSettings, MayChangeOnResume()] = LoggerSettings()

    @property
    def subset(self) -> str:
        """What the samples of a run are limited to, as in ``overfit-1``; empty for all samples.

        Titles and the names of folders contain it, so that nobody takes the results for real ones.
        """
        if self.trainer.overfit is not None:
            return f"overfit-{self.trainer.overfit}"
        if self.trainer.fraction is not None:
            return f"fraction-{self.trainer.fraction:g}"
        return ""

    @property
    def run_name(self) -> str:
        """The folder in runs/ for the run folders: the name, with the subset."""
        if not self.subset:
            return self.name
        return f"{self.name}-{self.subset}"


def section_type(field: FieldInfo) -> type[Section] | None:
    """The type of the section that a field contains; None for a single setting."""
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
        return field.annotation
    return None
