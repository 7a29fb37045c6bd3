"""The parts of a run, built as the settings say."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer, Loaders
from base.batch_loader import BatchLoader
from config.constructors import construct
from config.loading import load_settings
from config.schema import Settings
from logger.console import log
from metrics.classification import scalars_in
from storage.checkpoint_file import evaluation_weights, load_first_usable
from storage.run_folder import find_checkpoints, run_folder_of
from utils import parallel as distributed
from utils.device import move, select_device
from utils.errors import RANK, USER_CODE_ERRORS, WORLD, UserError, explain

EVALUATION = 4  # times the training batch: as no activations are kept, it takes no more memory


def build_dataset(settings: Settings, split: str | None) -> BaseDataset:
    """One split of the data set that the settings name; None gives one that only reads inputs."""
    data = settings.data
    return construct(data, BaseDataset, root=data.root, split=split, seed=settings.seed)


def build_loader(settings: Settings, dataset: BaseDataset, training: bool = False) -> BatchLoader:
    """A loader that goes through a data set in order or, for training, shuffles and augments."""
    data, cores = settings.data, torch.get_num_threads()
    workers = (0 if dataset.in_memory else cores) if data.workers is None else data.workers
    if training:
        parts, seed = settings.trainer.accumulate, settings.seed
        return BatchLoader(dataset, data.batch_size, seed, parts, workers, RANK, WORLD)
    size = EVALUATION * data.batch_size
    return BatchLoader(dataset, size, workers=workers, rank=RANK, world=WORLD)


def build_training_loaders(settings: Settings) -> dict[str, BatchLoader]:
    """Loaders of the training set, from which everything is learned, and of the validation set."""
    distributed.check_size(settings.data.batch_size)
    with distributed.in_turn():
        train, validation = build_dataset(settings, "train"), build_dataset(settings, "validation")
    validation.load_state_dict(train.state_dict())
    loaders = {"train": build_loader(settings, train, training=True)}
    loaders["validation"] = build_loader(settings, validation)
    for loader in loaders.values():
        loader.check()
    return loaders


def build_model(
    settings: Settings, dataset: BaseDataset, state: Mapping[str, Any] | None = None
) -> BaseModel:
    """The network that the settings name: a new one, or the trained one of a checkpoint.

    A new one starts from `model.init_from` and is partly frozen, if the settings say so.
    """
    options = settings.model
    model = construct(options, BaseModel, dataset=dataset)
    if state is not None:
        try:
            model.load_state_dict(evaluation_weights(state))
        except RuntimeError as error:  # which lists what is missing, unexpected, of other shapes
            lines = [shorten(line, 150, placeholder=" ...") for line in str(error).splitlines()[1:]]
            text = "\n  ".join([*lines[:5], f"and {len(lines) - 5} more"][: len(lines)])
            raise UserError(f"the checkpoint is not of this model:\n  {text}") from error
    else:
        model.start()
        if options.init_from is not None:
            _take_weights(model, options.init_from)
    model.freeze(options.freeze)
    return model


def _take_weights(model: BaseModel, source: Path) -> None:
    """Copies the weights whose name and shape fit, and says which are left as they were."""
    found = evaluation_weights(load_first_usable(find_checkpoints(source))[1])
    own = model.state_dict()
    fitting = {n: w for n, w in found.items() if n in own and w.shape == own[n].shape}
    if not fitting:
        raise UserError(f"model.init_from = {source}: no weights there that fit this model")
    model.load_state_dict(fitting, strict=False)
    left = own.keys() - fitting.keys()
    log.info("%d weights from %s; as they were: %s", len(fitting), source, sorted(left))


def build_trainer(settings: Settings, model: BaseModel, loaders: Loaders, run: Path) -> BaseTrainer:
    """The trainer that the settings name."""
    return construct(
        settings.trainer, BaseTrainer, settings=settings, model=model, loaders=loaders, run=run
    )


def rehearse(trainer: BaseTrainer) -> None:
    """Goes through a step on one batch, without an update, to find what does not fit together.

    Raises:
        UserError: if that fails, or `checkpoint.monitor` is none of the scalar metrics.
    """
    batch = move(next(trainer.loaders["train"].steps(0, 1))[0], trainer.device)
    # What is compiled would be for batches as small as this one, smaller than those of validation.
    eager = torch.compiler.set_stance("force_eager") if trainer.options.compile else nullcontext()
    try:
        with eager, trainer.evaluating() as model:
            trainer.evaluation_step(model, batch)
            scalars: Any = trainer.training_step(model, batch)
            if not isinstance(scalars, dict) or getattr(scalars.get("loss"), "ndim", True):
                raise UserError(f"training_step of {type(trainer).__name__} returns no scalar loss")
            results = trainer.metrics.compute()
            if (name := trainer.settings.checkpoint.monitor) not in (known := scalars_in(results)):
                raise UserError(f"checkpoint.monitor = {name!r}: allowed are {', '.join(known)}")
            trainer.higher_is_better(name)  # which, like tables, takes metrics of a certain kind
            trainer.tables(results)
    except (*USER_CODE_ERRORS, AssertionError) as error:
        raise UserError(f"model and data do not go together: {explain(error)}") from error


def restore_dataset(settings: Settings, split: str | None, state: Mapping[str, Any]) -> BaseDataset:
    """One split of the data set, or None, with what a checkpoint knows of the training data."""
    dataset = build_dataset(settings, split)
    dataset.load_state_dict(state["data"])
    dataset.example = state["example"]
    return dataset


def restore_trainer(
    files: Sequence[Path], split: str | None, overrides: Iterable[str]
) -> tuple[BaseTrainer, Path]:
    """A trainer to evaluate a split or to predict, with the model of the first usable checkpoint.

    It is not compiled, which would take longer than what it is used for. The checkpoint's file is
    returned as well.
    """
    checkpoint, state = load_first_usable(files)
    settings = load_settings(state["settings"], ["trainer.compile=false", *overrides])
    distributed.start(select_device(settings.device))
    with distributed.in_turn():
        dataset = restore_dataset(settings, split, state)
    loaders = {split or "predict": build_loader(settings, dataset)}
    model = build_model(settings, dataset, state)
    trainer = build_trainer(settings, model, loaders, run_folder_of(checkpoint))
    trainer.step = state["step"]
    return trainer, checkpoint
