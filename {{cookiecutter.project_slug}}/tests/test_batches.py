"""Batches of any structure: loading, moving, evaluation, resuming, previews, non-finite values."""
# ruff: noqa: D103  the names of the tests state what they test

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from stopped_runs import differences
from torch import Tensor, nn

import preview
from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.batch_loader import BatchLoader
from builders import build_fitted_dataset, fit_dataset
from data_loader import synthetic as data_files
from model import networks as model_files
from storage.checkpoint_file import load_checkpoint
from trainer import classifier as trainer_files
from utils.device import to_device
from utils.errors import UserError
from utils.nested import named_tensors, stack_samples
from utils.randomness import make_generator

Command = Callable[..., int]

SAMPLES = {"train": 96, "validation": 40, "test": 40}


@dataclass(frozen=True)
class Sequence:
    """Numbers of any count, one after the other, and the number of each sample."""

    values: Tensor
    lengths: Tensor


class Pair(NamedTuple):
    """A named tuple."""

    first: Tensor
    second: Tensor


class Graph:
    """An object that moves itself, as those of other libraries do."""

    def __init__(self, nodes: Tensor, edges: Tensor) -> None:
        self.nodes = nodes
        self.edges = edges

    def to(self, device: Any) -> "Graph":
        """The graph on a device."""
        return Graph(self.nodes.to(device), self.edges.to(device))


class Nested(BaseDataset):
    """Numbers whose sum is to be predicted, in every kind of structure.

    Args:
        kind: dict, list, tuple, named, dataclass or object.
        broken: number of the training sample with NaN.
    """

    title = "nested"

    def __init__(
        self, root: Path, split: str | None, seed: int, kind: str = "dict", broken: int = -1
    ) -> None:
        self.kind = kind
        count = SAMPLES.get(split or "", 0)
        rng = make_generator(seed, *(split or "").encode())
        self.values = torch.randn(count, 3, generator=rng)
        if split == "train" and broken >= 0:
            self.values[broken] = torch.nan

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        values = self.values[index]
        answer = values.sum()
        if self.kind == "dict":
            return {"x": {"values": values, "id": f"sample {index}"}, "y": answer}
        if self.kind == "list":
            return [values, [answer]]
        if self.kind == "tuple":
            return values, answer
        if self.kind == "named":
            return Pair(values, answer)
        if self.kind == "dataclass":
            return Sequence(values, answer)
        return Graph(values, answer)

    def collate(self, samples: Any) -> Any:
        if self.kind == "dataclass":  # tensors whose first dimensions differ
            lengths = torch.tensor([len(sample.values) for sample in samples])
            answers = torch.stack([sample.lengths for sample in samples])
            values = torch.cat([sample.values for sample in samples])
            return {"sequence": Sequence(values, lengths), "answers": answers}
        if self.kind == "object":
            nodes = torch.stack([sample.nodes for sample in samples])
            return Graph(nodes, torch.stack([sample.edges for sample in samples]))
        return super().collate(samples)


def inputs_and_answers(batch: Any) -> tuple[Tensor, Tensor]:
    """What a trainer of such batches reads from them."""
    if isinstance(batch, dict) and "sequence" in batch:
        sequence = batch["sequence"]
        return sequence.values.reshape(len(sequence.lengths), -1), batch["answers"]
    if isinstance(batch, dict):
        assert all(isinstance(text, str) for text in batch["x"]["id"])
        return batch["x"]["values"], batch["y"]
    if isinstance(batch, Graph):
        return batch.nodes, batch.edges
    first, second = batch
    if isinstance(second, list):
        second = second[0]
    return first, second


class Sum(BaseModel):
    """A linear layer for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, values: Tensor, scale: float) -> dict[str, Tensor]:
        """The sums, shape (N,), of values, shape (N, 3)."""
        return {"sums": scale * self.layer(values).squeeze(1)}


class SumTrainer(BaseTrainer):
    """Trains by the squared error."""

    def training_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        values, answers = inputs_and_answers(batch)
        return {"loss": (model(values, 1.0)["sums"] - answers).square().mean()}

    def evaluation_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return self.training_step(model, batch)


SETTINGS = (
    "data.name=synthetic.Nested",
    "model={name: networks.Sum}",
    "trainer.name=classifier.SumTrainer",
    "checkpoint.monitor=loss",
    "data.batch_size=16",
    "optimizer.lr=0.1",
)
KINDS = ("dict", "list", "tuple", "named", "dataclass", "object")


@pytest.fixture(autouse=True)
def own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the classes to files of the project."""
    monkeypatch.setattr(data_files, "Nested", Nested, raising=False)
    monkeypatch.setattr(model_files, "Sum", Sum, raising=False)
    monkeypatch.setattr(trainer_files, "SumTrainer", SumTrainer, raising=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_any_structure_trains_and_resumes_exactly(
    tmp_path: Path,
    train: Command,
    command: Command,
    logged: Callable[..., list[float]],
    kind: str,
    workers: int,
) -> None:
    changes = [*SETTINGS, f"data.kind={kind}", f"data.workers={workers}", "trainer.epochs=4"]
    saves = ["checkpoint.every_steps=5", "checkpoint.keep=100"]
    whole = tmp_path / "whole"
    assert train(whole, *changes, *saves) == 0
    losses = logged(whole, "validation", "loss")
    assert losses[-1] < losses[0] / 10
    part = killed_after(whole, step=10)
    assert command("train", "--resume", part) == 0
    states = [load_checkpoint(run / "checkpoints/last.pt") for run in (whole, part)]
    assert differences(states[0], states[1]) == []
    assert command("evaluate", whole) == 0


def killed_after(whole: Path, step: int) -> Path:
    """A copy of a run as it would be after a kill right after a checkpoint."""
    part = whole.with_name("part")
    shutil.copytree(whole, part)
    for file in (part / "checkpoints").iterdir():
        if file.name != f"step_{step:08d}.pt":
            file.unlink()
    return part


@pytest.mark.parametrize("kind", KINDS)
def test_a_preview_shows_any_structure(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert preview_of("data.name=synthetic.Nested", f"data.kind={kind}") == 0
    header = capsys.readouterr().out.splitlines()[1]
    expected = {
        "dict": "x values",
        "list": "1 0",
        "tuple": "0",
        "named": "first",
        "dataclass": "shape",
        "object": "nodes",
    }
    assert expected[kind] in header


def preview_of(*settings: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        config = Path(preview.__file__).parent / "config/synthetic.yaml"
        patch.setattr("sys.argv", ["preview.py", "--config", str(config), *settings])
        preview.main()
    return 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_samples_gets_a_batch_that_does_not_count(kind: str) -> None:
    dataset = Nested(Path(), "train", 0, kind)
    dataset.values = dataset.values[:17]
    loader = BatchLoader(dataset, 16, seed=0, rank=1, world_size=2)
    *_, last = loader.steps(0, 2)
    assert last.sample_counts == [0]
    assert last.loss_weights == [0]
    values, _ = inputs_and_answers(last.batches[0])
    assert values.shape[1] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_depends_on_the_samples(kind: str) -> None:
    first = Nested(Path(), "train", 0, kind)
    changed = Nested(Path(), "train", 0, kind)
    assert first.fingerprint == Nested(Path(), "train", 0, kind).fingerprint
    changed.values[0, 0] += 1
    assert changed.fingerprint != first.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_non_finite_sample_is_named_and_saved(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    run = tmp_path / "run"
    assert train(run, *SETTINGS, f"data.kind={kind}", "data.broken=40") == 1
    assert "non-finite values in" in capsys.readouterr().err
    (file,) = run.glob("non_finite_*.pt")
    values = dict(named_tensors(load_checkpoint(file)["batches"]))
    assert any(not tensor.isfinite().all() for tensor in values.values())


@pytest.mark.parametrize(
    "samples",
    [
        [{"x": torch.ones(1)}, {"x": torch.ones(1), "y": torch.ones(1)}],
        [{"x": torch.ones(1), "y": torch.ones(1)}, {"x": torch.ones(1)}],
        [[torch.ones(1)], [torch.ones(1), torch.ones(1)]],
    ],
)
def test_samples_of_different_structure_are_not_cut(samples: list[Any]) -> None:
    with pytest.raises(UserError, match=r"some samples have '(y|1)'.*collate"):
        stack_samples(samples)


def test_all_tensors_and_objects_are_moved() -> None:
    graph = Graph(torch.ones(2), torch.ones(3))
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    batch = {"a": [torch.ones(1), graph], "b": Pair(torch.ones(1), torch.ones(1)), "c": packed}
    moved = to_device(batch, torch.device("meta"))
    for name, tensor in named_tensors(moved):
        assert tensor.is_meta or name == "c batch_sizes", name  # which stays on the CPU
    assert isinstance(moved["a"][1], Graph)
    assert isinstance(moved["b"], Pair)
    assert isinstance(moved["c"], nn.utils.rnn.PackedSequence)


class Tokenizer(Nested):
    """Fits something that does not come out the same twice."""

    fitted = ("offset",)
    fits = 0
    offset: float

    def fit(self) -> None:
        type(self).fits += 1
        self.offset = float(type(self).fits)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.values = self.values + self.offset


def test_what_is_fitted_is_fitted_once_in_a_run(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "Tokenizer", Tokenizer, raising=False)
    monkeypatch.setattr(Tokenizer, "fits", 0)
    run = tmp_path / "run"
    changes = [*SETTINGS, "data.name=synthetic.Tokenizer", "trainer.max_steps=4"]
    assert train(run, *changes) == 0
    assert command("train", "--resume", run, "trainer.max_steps=6") == 0
    assert command("evaluate", run, "--split", "train") == 0
    assert Tokenizer.fits == 1
    assert load_checkpoint(run / "checkpoints/last.pt")["data"]["offset"] == 1.0


class Forgetful(Nested):
    """Does not set what it declares."""

    fitted = ("vocabulary",)


class Failing(Nested):
    """Fails in `fit`."""

    def fit(self) -> None:
        raise KeyError("word")


@pytest.mark.parametrize(
    ("kind", "parts"),
    [(Forgetful, ["Forgetful.fit", "vocabulary"]), (Failing, ["Failing.fit", "KeyError"])],
)
def test_an_error_in_fit_is_reported(kind: type[Nested], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        fit_dataset(kind(Path(), "train", 0))
    for part in parts:
        assert part in str(caught.value)


def test_other_splits_get_what_is_fitted(make_settings: Callable[..., Any]) -> None:
    settings = make_settings()
    train = build_fitted_dataset(settings, "train").state_dict()
    assert build_fitted_dataset(settings, "validation").state_dict() == train
