"""The components of a run, built from its settings."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer, Loaders
from base.batch_loader import BatchLoader
from base.sample_order import SampleOrder, build_sample_order
from config.classes import find_component
from config.constructors import construct, constructor_parameters
from config.loading import load_section, load_settings
from config.schema import DataSettings, SamplerSettings, Settings
from data_loader import samplers, subsets
from logger.console import log
from storage.checkpoint_file import load_first_usable
from storage.run_folder import run_folder_of, start_folder_of
from storage.state import evaluation_weights, load_weights
from storage.trainer_state import restore_for_evaluation
from storage.weights import match_weights, read_weights
from utils.device import select_device
from utils.errors import USER_CODE_ERRORS, UserError, describe_error
from utils.finite import find_non_finite
from utils.process_group import (
    broadcast_object,
    check_batch_size,
    initialize_process_group,
    main_process_first,
)
from utils.randomness import preserve_global_rng
from utils.ranks import is_main_process, local_world_size, rank, world_size

# An evaluation batch is larger than a training batch: without activations that are kept for the
# backward pass, it takes no more memory (it does if the trainer evaluates with gradients).
EVALUATION_BATCH_FACTOR = 4
EVALUATED_SPLITS = ("train", "validation", "test")
RESERVED_SPLITS = (*EVALUATED_SPLITS, "predict")
TRAINING_DATA_SETTINGS = ("sampler", "drop_last", "validation_sets")


def build_dataset(
    settings: Settings, split: str | None, create_example: bool = False
) -> BaseDataset:
    """One split of the data set in the settings; None gives a data set without samples.

    The files of an example are only created for `create_example`. Otherwise a wrong data folder
    would get them, and the results would be those of other data.
    """
    dataset = construct(
        settings.data,
        BaseDataset,
        root=settings.data.root,
        split=split,
        seed=settings.seed,
        create_example=create_example,
    )
    mark_title(dataset, settings)
    return dataset


def mark_title(dataset: BaseDataset, settings: Settings) -> None:
    """Adds `trainer.overfit` or `trainer.fraction` to the title of a data set."""
    if settings.subset:
        dataset.title = f"{dataset.title} ({settings.subset})"


def build_loader(settings: Settings, dataset: BaseDataset, training: bool = False) -> BatchLoader:
    """A loader in the order of the data set, or one for training, which samples and augments."""
    batch_size = settings.data.batch_size
    workers = settings.data.workers
    if workers is None:
        workers = default_workers(dataset)
    if training:
        return BatchLoader(
            dataset,
            batch_size,
            seed=settings.seed,
            accumulate=settings.trainer.accumulate,
            workers=workers,
            rank=rank(),
            world_size=world_size(),
            order=build_order(settings, dataset),
            drop_last=settings.data.drop_last,
        )
    return BatchLoader(
        dataset,
        EVALUATION_BATCH_FACTOR * batch_size,
        workers=workers,
        rank=rank(),
        world_size=world_size(),
    )


def build_order(settings: Settings, dataset: BaseDataset) -> SampleOrder | None:
    """The order of the training samples; None if they are shuffled, as the loader does itself."""
    options = settings.data.sampler
    if find_component(SamplerSettings, options.name) is samplers.shuffled:
        return None
    return build_sample_order(options, dataset, settings.seed, step_size(settings))


def step_size(settings: Settings) -> int:
    """Samples of an optimizer step in all processes."""
    return settings.data.batch_size * settings.trainer.accumulate


def default_workers(dataset: BaseDataset) -> int:
    """No workers for data in memory, otherwise this process's part of the machine's cores."""
    if dataset.in_memory or dataset.saved_attributes:
        return 0
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, cores // local_world_size())


def build_training_loaders(
    settings: Settings, state: Mapping[str, Any] | None = None
) -> dict[str, BatchLoader]:
    """Loaders of the training set and of the validation sets.

    Args:
        settings: the settings of the run.
        state: the checkpoint of a resumed run, with what was fitted on the training samples.
    """
    check_batch_size(settings.data.batch_size)
    # Only the main process creates files and fits, so what that draws must not change the first
    # weights.
    with preserve_global_rng():
        with main_process_first():
            train = build_dataset(settings, "train", create_example=state is None)
            validation = build_dataset(settings, "validation")
        if state is None:
            fit_dataset(train)
        else:
            train.load_state_dict(state["data"])
    validation.load_state_dict(train.state_dict())
    loaders = {
        "train": build_loader(settings, train, training=True),
        "validation": build_loader(settings, validation),
    }
    for name in settings.data.validation_sets:
        loaders[name] = build_validation_set(settings, name, train.state_dict())
    for loader in loaders.values():
        loader.check()
        broadcast_fingerprint(loader)
    if settings.trainer.overfit is not None:
        loaders = restrict_to_batches(settings, loaders, settings.trainer.overfit)
    elif settings.trainer.fraction is not None:
        loaders = restrict_to_fraction(settings, loaders, settings.trainer.fraction)
    loaders["train"].check_steps()
    return loaders


def restrict_to_batches(
    settings: Settings, loaders: Mapping[str, BatchLoader], count: int
) -> dict[str, BatchLoader]:
    """Loaders of the first batches of the training set, for training and for validation.

    Both have the same samples in each epoch, without augmentation. The sets in
    `data.validation_sets` stay as they are.

    Raises:
        UserError: if `trainer.fraction` is set as well.
    """
    if settings.trainer.fraction is not None:
        raise UserError("trainer.overfit and trainer.fraction cannot be combined; leave one out")
    train = loaders["train"]
    dataset = train.dataset
    indices = subsets.first_batches(train, count)
    validated = indices.unique()
    order = subsets.in_fixed_order(dataset, indices)
    validation_order = subsets.in_fixed_order(dataset, validated)
    validation = build_loader(settings, dataset)
    return {
        **loaders,
        "train": train.restricted(order, len(indices), augments=False),
        "validation": validation.restricted(validation_order, len(validated)),
    }


def restrict_to_fraction(
    settings: Settings, loaders: Mapping[str, BatchLoader], fraction: float
) -> dict[str, BatchLoader]:
    """Loaders of a fraction of the samples of each set.

    Raises:
        UserError: if the sampler cannot choose from a part of the samples.
    """
    restricted = {}
    for name, loader in loaders.items():
        indices = subsets.stratified_fraction(loader.dataset, fraction, settings.seed)
        if name == "train":
            order = build_order_of_part(settings, loader.dataset, indices)
        else:
            order = subsets.in_fixed_order(loader.dataset, indices)
        restricted[name] = loader.restricted(order, len(indices))
    return restricted


def build_order_of_part(settings: Settings, dataset: BaseDataset, samples: Tensor) -> SampleOrder:
    """The order of a part of the training samples (their indices, int64, shape (N,)).

    Raises:
        UserError: if the sampler cannot choose from a part of the samples.
    """
    options = settings.data.sampler
    sampler = find_component(SamplerSettings, options.name)
    if sampler is samplers.shuffled:
        return subsets.in_random_order(dataset, samples, settings.seed)
    if sampler is samplers.sequential:
        return subsets.in_fixed_order(dataset, samples)
    if "samples" not in constructor_parameters(sampler):
        raise UserError(
            f"trainer.fraction = {settings.trainer.fraction}: data.sampler = {options.name!r} has "
            "no parameter `samples`, and chooses from all samples; add it, or use shuffled"
        )
    return build_sample_order(options, dataset, settings.seed, step_size(settings), samples)


def fit_dataset(train: BaseDataset) -> BaseDataset:
    """Fits the training set in the main process, and sends the result to the others."""
    fitted: dict[str, Any] = {}
    if is_main_process():
        _fit(train)
        fitted = train.state_dict()
    train.load_state_dict(broadcast_object(fitted))
    return train


def _fit(train: BaseDataset) -> None:
    """Calls `fit`.

    Raises:
        UserError: if it fails, or does not set an attribute in `fitted`.
    """
    name = type(train).__name__
    try:
        train.fit()
    except UserError:
        raise
    except Exception as error:  # whatever the code of a data set may raise
        raise UserError(f"{name}.fit fails: {describe_error(error)}") from error
    for attribute in train.fitted:
        if not hasattr(train, attribute):
            raise UserError(f"{name}.fitted names {attribute!r}, which {name}.fit does not set")


def build_fitted_dataset(settings: Settings, split: str) -> BaseDataset:
    """One split of the data set, with what is fitted on the training samples."""
    train = fit_dataset(build_dataset(settings, "train", create_example=True))
    if split == "train":
        return train
    dataset = build_dataset(settings, split)
    dataset.load_state_dict(train.state_dict())
    return dataset


def build_validation_set(
    settings: Settings, name: str, training_state: Mapping[str, Any]
) -> BatchLoader:
    """A loader of one of `data.validation_sets`, with what the training set has fitted.

    Its settings are those of the training set, with the changes in `data.validation_sets`.

    Args:
        settings: the settings of the run.
        name: the name of the set.
        training_state: the `state_dict` of the training set.

    Raises:
        UserError: if the name is that of a split, or its settings are not valid or have no effect.
    """
    path = f"data.validation_sets.{name}"
    # evaluate.py writes into a folder of this name.
    if name in RESERVED_SPLITS or not re.fullmatch(r"[^./\\][^/\\]*", name):
        raise UserError(
            f"{path}: use a name without slashes and a leading dot that is none of "
            f"{', '.join(RESERVED_SPLITS)}"
        )
    changes = settings.data.validation_sets[name]
    for training_setting in TRAINING_DATA_SETTINGS:
        if training_setting in changes:
            raise UserError(
                f"{path}.{training_setting}: it has no effect on a validation set; leave it out"
            )
    values = settings.data.model_dump(mode="json", exclude={"validation_sets", "sampler"})
    if "name" in changes:  # the arguments belong to another class
        for argument in settings.data.arguments:
            del values[argument]
    section = load_section(path, DataSettings, {**values, **changes})
    with main_process_first():
        dataset = construct(
            section,
            BaseDataset,
            root=section.root,
            split="validation",
            seed=settings.seed,
            create_example=False,
        )
    mark_title(dataset, settings)
    for attribute in dataset.fitted:
        if attribute not in training_state:
            raise UserError(
                f"{path}: {type(dataset).__name__} needs {attribute!r}, which the training set "
                "does not fit; use a data set with the same fitted attributes"
            )
    dataset.load_state_dict(training_state)
    return build_loader(settings.model_copy(update={"data": section}), dataset)


def broadcast_fingerprint(loader: BatchLoader) -> None:
    """Computes the fingerprint of a data set in the main process, and sends it to the others."""
    fingerprint = ""
    if is_main_process():
        try:
            fingerprint = loader.dataset.fingerprint
        except Exception as error:  # whatever the code of a data set may raise
            raise loader.source.loading_error(error, loader.dataset.probe_indices) from error
    loader.dataset.fingerprint = broadcast_object(fingerprint)


def build_model(settings: Settings, dataset: BaseDataset) -> BaseModel:
    """The network in the settings, with the parameters of `model.freeze` frozen."""
    model = construct(settings.model, BaseModel, dataset=dataset)
    initialize_lazy_layers(model, dataset)
    model.freeze(settings.model.freeze)
    return model


def initialize_lazy_layers(model: BaseModel, dataset: BaseDataset) -> None:
    """Gives lazy layers their shapes, by a forward pass of the example of the data set.

    The optimizer, the moving average and checkpoints need all parameters.

    Raises:
        UserError: if the model takes something else, or does not use a lazy layer.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if not any(is_lazy(tensor) for tensor in tensors):
        return
    name = type(model).__name__
    advice = "call the model in its constructor, with inputs of the right shape, or state its sizes"
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(dataset.example)
    except USER_CODE_ERRORS as error:
        raise UserError(
            f"{name} has lazy layers, but fails on the example of the data set: "
            f"{describe_error(error)}; {advice}"
        ) from error
    finally:
        model.train(was_training)
    for tensor_name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise UserError(f"{name} does not use the lazy layer of {tensor_name}; {advice}")


def build_new_model(settings: Settings, dataset: BaseDataset) -> BaseModel:
    """A network for a new run: initialised, or with the weights of `model.init_from`."""
    model = build_model(settings, dataset)
    model.initialize()
    if settings.model.init_from is not None:
        copy_matching_weights(model, settings.model.init_from)
    return model


def build_trained_model(
    settings: Settings, dataset: BaseDataset, state: Mapping[str, Any]
) -> BaseModel:
    """The network of a checkpoint, with the weights that are evaluated."""
    model = build_model(settings, dataset)
    load_weights(model, evaluation_weights(state))
    return model


def copy_matching_weights(model: BaseModel, source: Path) -> None:
    """Copies the weights of a file whose names and shapes match, and logs the others.

    Raises:
        UserError: if no weights match, or one of them is not finite.
    """
    try:
        weights = read_weights(source)
    except UserError as error:
        raise UserError(f"model.init_from: {error}", error.exit_code) from error
    match = match_weights(model.state_dict(), weights)
    if not match.fitting:
        first_names = ", ".join(list(model.state_dict())[:3])
        raise UserError(
            f"model.init_from = {source}: no weights match this model, which "
            f"has {first_names}, ...\n{match.describe().splitlines()[1]}"
        )
    model.load_state_dict(match.fitting, strict=False)
    non_finite = find_non_finite(dict(model.named_parameters()))
    if non_finite is not None:
        raise UserError(
            f"model.init_from = {source}: {non_finite} has NaN, infinity or a value that is too "
            "large for its dtype; use other weights"
        )
    log.info("model.init_from = %s: %s", source, match.describe())


def build_trainer(settings: Settings, model: BaseModel, loaders: Loaders, run: Path) -> BaseTrainer:
    """The trainer in the settings."""
    return construct(
        settings.trainer, BaseTrainer, settings=settings, model=model, loaders=loaders, run=run
    )


def find_data_root(settings: Settings, run: Path) -> Settings:
    """The settings with the data folder of a run that was started in another folder.

    A relative `data.root` refers to the current folder or, if that does not have it, to the folder
    in which the run was started; so does the `root` of a set in `data.validation_sets`.
    """
    start_folder = start_folder_of(run)
    if start_folder is None:
        return settings
    root = _find_root("data.root", settings.data.root, start_folder)
    validation_sets = {}
    for name, changes in settings.data.validation_sets.items():
        validation_sets[name] = dict(changes)
        if "root" in changes:
            path = f"data.validation_sets.{name}.root"
            found = _find_root(path, Path(changes["root"]), start_folder)
            validation_sets[name]["root"] = str(found)
    update = {"root": root, "validation_sets": validation_sets}
    data = settings.data.model_copy(update=update)
    return settings.model_copy(update={"data": data})


def _find_root(setting: str, root: Path, start_folder: Path) -> Path:
    """A data folder, in the current folder or in the one where the run was started."""
    original_root = start_folder / root
    if root.is_absolute() or root.exists() or not original_root.exists():
        return root
    log.warning(
        "%s = %s is not in %s; using %s, as when the run was started",
        setting,
        root,
        Path.cwd(),
        original_root,
    )
    return original_root


def restore_dataset(settings: Settings, split: str | None, state: Mapping[str, Any]) -> BaseDataset:
    """One split of the data set, with what a checkpoint contains of the training data."""
    dataset = build_dataset(settings, split)
    dataset.load_state_dict(state["data"])
    _restore_example(dataset, state)
    return dataset


def _restore_example(dataset: BaseDataset, state: Mapping[str, Any]) -> None:
    if state["example"] is not None:
        dataset.example = state["example"]


def restore_trainer(
    files: Sequence[Path], split: str | None, overrides: Iterable[str]
) -> tuple[BaseTrainer, Path]:
    """A trainer to evaluate a split, or to predict, with the first usable checkpoint.

    It has the weights that are evaluated and what a subclass adds to its state, but no optimizer.
    The model is not compiled: that would take longer than its use.

    Args:
        files: checkpoints in the order in which to try them.
        split: the split or the set of `data.validation_sets` to evaluate, or None to predict.
        overrides: settings as KEY=VALUE that replace those of the checkpoint.

    Returns:
        The trainer, and the checkpoint that it comes from.

    Raises:
        UserError: if there is no such split or set.
    """
    checkpoint, state = load_first_usable(files)
    settings = load_settings(state["settings"], ["trainer.compile=false", *overrides])
    settings = find_data_root(settings, run_folder_of(checkpoint))
    trained_seed = state["settings"]["seed"]
    if settings.seed != trained_seed:
        log.warning(
            "seed = %d: the run has the seed %d; if the splits depend on it, training samples may "
            "be evaluated",
            settings.seed,
            trained_seed,
        )
    available = [*EVALUATED_SPLITS, *settings.data.validation_sets]
    if split is not None and split not in available:
        raise UserError(f"--split {split}: the run has {', '.join(available)}")
    initialize_process_group(select_device(settings.device))
    if split in settings.data.validation_sets:
        loader = build_validation_set(settings, split, state["data"])
        _restore_example(loader.dataset, state)
    else:
        with main_process_first():
            dataset = restore_dataset(settings, split, state)
        loader = build_loader(settings, dataset)
    loaders = {split or "predict": loader}
    model = build_trained_model(settings, loader.dataset, state)
    trainer = build_trainer(settings, model, loaders, run_folder_of(checkpoint))
    restore_for_evaluation(trainer, state)
    return trainer, checkpoint
