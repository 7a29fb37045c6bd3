"""Draws samples of the data that runs were evaluated on."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from base.base_dataset import BaseDataset
from builders import find_data_root, restore_dataset
from config.loading import load_settings
from evaluation.results import METRICS_FILE, read_metrics
from experiments.pair import Pair
from experiments.samples import SampleComparison
from logger.figures import save_figure
from storage.checkpoint_file import load_first_usable
from storage.run_folder import find_checkpoints, run_folder_of

SPLITS = ("train", "validation", "test")
MAX_SAMPLES = 16  # of a figure


def draw_differences(pair: Pair) -> dict[str, list[bytes]]:
    """PNG files of the samples on which only one of two runs is correct, by split.

    Raises:
        Exception: whatever the code of a data set raises.
        OSError: if the data cannot be read.
        UserError: if there is no usable checkpoint, or no such data any more.
    """
    images: dict[str, list[bytes]] = {}
    run = pair.runs[0].folder
    for samples in pair.samples:
        if samples.is_class and samples.split in SPLITS:
            dataset = load_evaluated_data(run, samples.split)
            if dataset is not None:
                images[samples.split] = _draw_split(pair, samples, dataset)
    return images


def _draw_split(pair: Pair, samples: SampleComparison, dataset: BaseDataset) -> list[bytes]:
    """A figure of the samples on which only the first run is correct, and one for the second."""
    images = []
    found = (samples.only_first, samples.only_second)
    for run_name, sample_names in zip(pair.names, found, strict=True):
        titles = {}
        for name in sample_names[:MAX_SAMPLES]:
            titles[name] = samples.describe(name)
        image = draw_samples(dataset, titles, f"correct only in {run_name}")
        if image is not None:
            images.append(image)
    return images


def load_evaluated_data(run: Path, split: str) -> BaseDataset | None:
    """The data of a split, from the settings in the checkpoint of a run.

    Returns:
        The data set; None if the run was evaluated on other data, such as those of another
        data.root, or the files have changed since: the predictions would belong to other samples.

    Raises:
        Exception: whatever the code of a data set raises.
        OSError: if the data cannot be read.
        UserError: if there is no usable checkpoint, or no such data any more.
    """
    checkpoint, state = load_first_usable(find_checkpoints(run))
    settings = load_settings(state["settings"])
    settings = find_data_root(settings, run_folder_of(checkpoint))
    dataset = restore_dataset(settings, split, state)
    evaluation = read_metrics(run / "evaluation" / split / METRICS_FILE)
    if dataset.fingerprint != evaluation.get("fingerprint"):
        return None
    return dataset


def draw_samples(dataset: BaseDataset, titles: Mapping[str, str], heading: str) -> bytes | None:
    """Draws samples as the model gets them.

    Args:
        dataset: the data set that contains the samples.
        titles: what is written above each sample, by its name. If several samples have the same
            name, the first one is drawn.
        heading: title of the figure.

    Returns:
        A PNG file; None if there are no samples, they are no images, or have other names by now.

    Raises:
        Exception: whatever the code of a data set raises.
    """
    remaining_titles = dict(titles)
    indices = []
    shown_titles = []
    for index in range(len(dataset)):
        if not remaining_titles:
            break
        title = remaining_titles.pop(dataset.sample_name(index), None)
        if title is not None:
            indices.append(index)
            shown_titles.append(title)
    if not indices:
        return None
    batch = dataset.__getitems__(torch.tensor(indices))
    batch = dataset.transform(batch, None)
    figure = dataset.draw(batch, heading, shown_titles)
    if figure is None:
        return None
    image = io.BytesIO()
    save_figure(figure, image)
    return image.getvalue()
