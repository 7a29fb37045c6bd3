"""Draws samples of the data that runs were evaluated on."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from builders import find_data_root, restore_dataset
from config.loading import load_settings
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
        OSError: if the data cannot be read.
        UserError: if there is no usable checkpoint, or no such data any more.
    """
    images: dict[str, list[bytes]] = {}
    for samples in pair.samples:
        if samples.is_class and samples.split in SPLITS:
            images[samples.split] = _draw_split(pair, samples)
    return images


def _draw_split(pair: Pair, samples: SampleComparison) -> list[bytes]:
    """A figure of the samples on which only the first run is correct, and one for the second."""
    images = []
    found = (samples.only_first, samples.only_second)
    for run_name, sample_names in zip(pair.names, found, strict=True):
        titles = {}
        for name in sample_names[:MAX_SAMPLES]:
            titles[name] = samples.describe(name)
        heading = f"correct only in {run_name}"
        image = draw_samples(pair.runs[0].folder, samples.split, titles, heading)
        if image is not None:
            images.append(image)
    return images


def draw_samples(run: Path, split: str, titles: Mapping[str, str], heading: str) -> bytes | None:
    """Draws samples as the model gets them.

    Args:
        run: the run folder.
        split: the split that contains the samples.
        titles: what is written above each sample, by its name.
        heading: title of the figure.

    Returns:
        A PNG file; None if there are no samples, they are no images, or have other names by now.

    Raises:
        OSError: if the data cannot be read.
        UserError: if there is no usable checkpoint, or no such data any more.
    """
    if not titles:
        return None
    checkpoint, state = load_first_usable(find_checkpoints(run))
    settings = load_settings(state["settings"])
    settings = find_data_root(settings, run_folder_of(checkpoint))
    dataset = restore_dataset(settings, split, state)
    indices = []
    shown_titles = []
    for index in range(len(dataset)):
        title = titles.get(dataset.sample_name(index))
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
