"""Accelerators: where data are stored, when the host waits, autocast dtypes, compiled models."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from base.base_dataset import Batch
from base.batch_loader import Step, shuffled_steps
from base.validation import log_figures
from builders import build_loader, build_model, build_training_loaders
from config.schema import Settings
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from data_loader.transforms import random_crop, random_horizontal_flip
from logger.figures import Figure
from logger.meter import read_peak_memory
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier
from utils.device import to_device
from utils.randomness import seed_everything, uniform

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CUDA = torch.device("cuda")
WARM_UP_STEPS = 3  # in which the host may wait, for example to allocate memory
MakeSettings = Callable[..., Settings]


class NoWaitTrainer(Classifier):
    """Raises an error if the host waits for the device, except to log, validate and save."""

    def update(self, step: Step) -> dict[str, Tensor]:
        outputs = super().update(step)
        if self.progress.step >= WARM_UP_STEPS:
            torch.cuda.set_sync_debug_mode("error")
        return outputs

    @contextmanager
    def waiting_allowed(self) -> Iterator[None]:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        yield
        torch.cuda.set_sync_debug_mode(mode)

    def log_training(self) -> dict[str, float]:
        with self.waiting_allowed():
            return super().log_training()

    def validate(self) -> None:
        with self.waiting_allowed():
            super().validate()

    def save(self, is_best: bool = False) -> None:
        with self.waiting_allowed():
            super().save(is_best)


@pytest.fixture(autouse=True)
def reset_sync_debug_mode() -> Iterator[None]:
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def make_cuda_trainer(tmp_path: Path, make_settings: MakeSettings) -> Callable[..., Classifier]:
    """``make_cuda_trainer("trainer.ema=0.9")``: a trainer on CUDA in a new run folder.

    Its data set is new, because that of other tests must stay on the CPU.
    """

    def make(*changes: str, kind: type[Classifier] = Classifier, folder: str = "run") -> Classifier:
        settings = make_settings("device=cuda", *changes)
        seed_everything(settings.seed, settings.deterministic)
        loaders = build_training_loaders(settings)
        model = build_model(settings, loaders["train"].dataset)
        run = tmp_path / folder
        (run / "checkpoints").mkdir(parents=True)
        return kind(
            settings=settings, model=model, loaders=loaders, run=run, **settings.trainer.arguments
        )

    return make


def assert_equal_batches(batch: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Checks that batches are equal except for rounding errors; devices may differ."""
    assert batch.keys() == other.keys()
    for name, value in batch.items():
        torch.testing.assert_close(value.cpu(), other[name].cpu(), atol=1e-6, rtol=0)


def test_batches_are_made_on_the_device_of_the_data(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that this machine need not have: torch computes everything but the values."""
    used_devices = set()

    class WatchedSynthetic(Synthetic):
        def __getitems__(self, indices: Tensor) -> Batch:
            used_devices.add(indices.device.type)
            return super().__getitems__(indices)

        def transform(self, batch: Batch, rng: Generator | None) -> Batch:
            if rng is not None:
                used_devices.add(uniform(rng, 1).device.type)
                random_crop(batch["input"], 1, rng)
                random_horizontal_flip(batch["input"], rng)
            return super().transform(batch, rng)

    monkeypatch.setattr(synthetic, "Synthetic", WatchedSynthetic)
    loaders = build_training_loaders(make_settings("trainer.accumulate=2"))
    used_devices.clear()
    batches_per_step = {"train": 2, "validation": 1}
    with FakeTensorMode(allow_non_fake_inputs=True) as fake_mode:
        for split, loader in loaders.items():
            dataset = loader.dataset
            for name in dataset.device_tensors:
                setattr(dataset, name, fake_mode.from_tensor(getattr(dataset, name)))
            dataset.to(CUDA)
            step = next(loader.steps(0, 1))
            assert len(step.batches) == batches_per_step[split]
            for batch in step.batches:
                assert batch.keys() == {"input", "target"}
                for tensor in batch.values():
                    assert tensor.device.type == "cuda"
                    assert len(tensor) == loader.source.batch_size
    assert used_devices == {"cuda"}
    shuffled_steps.cache_clear()  # of tensors without values


def test_the_training_inputs_are_copied_to_the_cpu_before_they_are_drawn(
    make_trainer: Callable[..., Classifier],
) -> None:
    """With an item that records where it is copied: this machine need not have an accelerator."""

    class Item:
        device = "cuda"

        def to(self, device: str) -> "Item":
            moved = Item()
            moved.device = device
            return moved

    class WatchedSynthetic(Synthetic):
        def transform(self, batch: Batch, rng: Generator | None) -> Batch:
            return {**super().transform(batch, rng), "item": Item()}

        def draw(self, batch: Batch, heading: str, titles: Sequence[str] = ()) -> Figure | None:
            drawn_devices.append(batch["item"].device)
            return super().draw(batch, heading, titles)

    drawn_devices: list[str] = []
    dataset = WatchedSynthetic(Path(), "train", 0)
    dataset.fit()
    trainer = make_trainer("logger.tensorboard=true", train=dataset)
    log_figures(trainer, {}, is_first=True)
    assert drawn_devices == ["cpu"]


@needs_cuda
def test_data_in_memory_move_to_the_device_and_give_the_same_batches(
    make_settings: MakeSettings,
) -> None:
    settings = make_settings("trainer.accumulate=2")
    cpu_loader = build_training_loaders(settings)["train"]
    cuda_loader = build_training_loaders(settings)["train"]
    cuda_loader.use_device(CUDA)
    assert cuda_loader.dataset.device.type == "cuda"
    fingerprint = cuda_loader.dataset.fingerprint
    del cuda_loader.dataset.fingerprint
    assert cuda_loader.dataset.fingerprint == fingerprint
    cuda_steps = cuda_loader.steps(0, 20)
    cpu_steps = cpu_loader.steps(0, 20)
    for cuda_step, cpu_step in zip(cuda_steps, cpu_steps, strict=True):
        for cuda_batch, cpu_batch in zip(cuda_step.batches, cpu_step.batches, strict=True):
            assert cuda_batch["input"].is_cuda
            assert cuda_batch["target"].is_cuda
            assert_equal_batches(cuda_batch, cpu_batch)
    sample_batch = cuda_loader.sample_batch(7)
    assert_equal_batches(sample_batch, cpu_loader.sample_batch(7))
    assert not sample_batch["input"].is_cuda


@needs_cuda
def test_data_stay_on_the_host_with_workers(make_settings: MakeSettings) -> None:
    loader = build_training_loaders(make_settings("data.workers=1"))["train"]
    loader.use_device(CUDA)
    assert loader.dataset.device.type == "cpu"


@needs_cuda
def test_data_stay_on_the_host_if_the_device_has_too_little_free_memory(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 10**9))
    loader = build_training_loaders(make_settings())["train"]
    loader.use_device(CUDA)
    assert loader.dataset.device.type == "cpu"


@needs_cuda
def test_batches_of_workers_arrive_unchanged_on_the_device(make_settings: MakeSettings) -> None:
    settings = make_settings("data.workers=2")
    loader = build_training_loaders(settings)["train"]
    loader.use_device(CUDA)  # so that batches are in pinned memory
    expected_loader = build_loader(make_settings(), loader.dataset, training=True)
    steps = loader.steps(0, 20)
    expected_steps = expected_loader.steps(0, 20)
    for step, expected_step in zip(steps, expected_steps, strict=True):
        batch = to_device(step.batches[0], CUDA)
        assert batch["input"].is_cuda
        torch.cuda.current_stream().synchronize()
        assert_equal_batches(batch, expected_step.batches[0])


@needs_cuda
@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("trainer.ema=0.9", "trainer.clip_norm=1", "trainer.accumulate=2"),
        ("trainer.precision=bf16", "optimizer.name=AdamW", "optimizer.lr=0.001"),
        ("trainer.precision=fp16", "trainer.clip_norm=1"),
        ("data.workers=1",),
        ("loss.balanced=true", "scheduler.name=one_cycle"),
    ],
    ids=" ".join,
)
def test_the_host_waits_for_the_device_only_to_log_to_validate_and_to_save(
    changes: tuple[str, ...], make_cuda_trainer: Callable[..., Classifier]
) -> None:
    options = ("logger.every_steps=7", "logger.tensorboard=true", *changes)
    trainer = make_cuda_trainer(*options, kind=NoWaitTrainer)
    trainer.fit()
    assert trainer.is_finished()


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_trains_equally_well_with_and_without_compiling(
    precision: str, make_cuda_trainer: Callable[..., Classifier]
) -> None:
    accuracies = []
    for compiled in ("false", "true"):
        trainer = make_cuda_trainer(
            f"trainer.precision={precision}",
            f"trainer.compile={compiled}",
            "trainer.epochs=6",
            folder=f"compiled-{compiled}",
        )
        trainer.fit()
        for name, weight in trainer.model.state_dict().items():
            assert weight.dtype != torch.float16
            assert "_orig_mod" not in name
        accuracies.append(trainer.evaluate("validation")["accuracy"].item())
        if precision == "fp16":
            assert trainer.scaler.get_scale() > 1
    assert min(accuracies) > 0.6
    assert abs(accuracies[0] - accuracies[1]) < 0.1


@needs_cuda
def test_a_resumed_run_ends_with_the_same_bits(
    make_cuda_trainer: Callable[..., Classifier], tmp_path: Path
) -> None:
    options = ["deterministic=true", "trainer.ema=0.9", "trainer.precision=bf16"]
    options += ["checkpoint.every_steps=5", "checkpoint.keep=9"]
    try:
        uninterrupted = make_cuda_trainer(*options)
        uninterrupted.fit()
        resumed = make_cuda_trainer(*options, folder="resumed")
        checkpoint = tmp_path / "run/checkpoints/step_00000010.pt"
        resumed.load_state_dict(load_checkpoint(checkpoint))
        resumed.fit()
    finally:
        torch.use_deterministic_algorithms(False)
    assert resumed.progress.step == uninterrupted.progress.step > 10
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_peak_memory_is_read_in_gibibytes_and_then_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def max_memory_allocated(device: torch.device) -> int:
        calls.append(("read", device))
        return 3 * 2**29

    def reset_peak_memory_stats(device: torch.device) -> None:
        calls.append(("reset", device))

    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", max_memory_allocated)
    monkeypatch.setattr(torch.accelerator, "reset_peak_memory_stats", reset_peak_memory_stats)
    for device in (torch.device("cuda", 1), torch.device("xpu")):
        calls.clear()
        assert read_peak_memory(device) == {"peak_memory_gb": 1.5}
        assert calls == [("read", device), ("reset", device)]
    calls.clear()
    for name in ("cpu", "mps"):
        assert read_peak_memory(torch.device(name)) == {}
    assert calls == []


def test_the_peak_memory_is_not_logged_on_the_cpu(
    make_trainer: Callable[..., Classifier], logged: Callable[..., list[float]]
) -> None:
    trainer = make_trainer("trainer.max_steps=2")
    trainer.fit()
    assert logged(trainer.run, "train", "samples_per_second")
    assert logged(trainer.run, "train", "peak_memory_gb") == []


@needs_cuda
def test_each_log_entry_has_the_peak_memory_since_the_last_one(
    make_cuda_trainer: Callable[..., Classifier], logged: Callable[..., list[float]]
) -> None:
    class Greedy(Classifier):
        """Takes a gibibyte for a moment in one of the steps."""

        def update(self, step: Step) -> dict[str, Tensor]:
            if self.progress.step == 5:
                torch.empty(2**30, dtype=torch.uint8, device=self.device)
            return super().update(step)

    trainer = make_cuda_trainer("logger.every_steps=4", kind=Greedy)
    trainer.fit()
    first, second, third, *_ = logged(trainer.run, "train", "peak_memory_gb")
    assert 1 <= second < 1.5
    assert 0 < third < 0.9
    assert first > 0


@needs_cuda
def test_the_host_does_not_wait_to_read_the_peak_memory() -> None:
    torch.ones(1, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    assert read_peak_memory(CUDA)["peak_memory_gb"] > 0
