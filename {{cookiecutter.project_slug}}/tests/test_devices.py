"""Accelerators: where data lie, when the host waits, number formats, compiled models."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from base.base_dataset import Batch
from base.batch_loader import order_of
from builders import build_loader, build_model, build_training_loaders
from config.schema import Settings
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from data_loader.transforms import random_crop, random_horizontal_flip
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier
from utils.device import move
from utils.randomness import seed_everything, uniform

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CUDA = torch.device("cuda")
MakeSettings = Callable[..., Settings]


class Strict(Classifier):
    """Lets nothing wait for the device but what logs, validates and saves."""

    def update(self, batches: Any) -> None:
        super().update(batches)
        torch.cuda.set_sync_debug_mode("error" if self.step > 3 else "default")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        yield
        torch.cuda.set_sync_debug_mode(mode)

    def _log_step(self, factor: float) -> str:
        with self.waiting():
            return super()._log_step(factor)

    def _end_epoch(self) -> None:
        with self.waiting():
            super()._end_epoch()


@pytest.fixture(autouse=True)
def default_mode() -> Iterator[None]:
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def fit(tmp_path: Path, make_settings: MakeSettings) -> Callable[..., Classifier]:
    """``fit("trainer.ema=0.9")``: a trainer that has trained on CUDA, in a new run folder."""

    # The data are fresh, as those that other tests share are to stay on the CPU.
    def run(*changes: str, kind: type[Classifier] = Classifier, folder: str = "run") -> Classifier:
        settings = make_settings("device=cuda", *changes)
        seed_everything(settings.seed, settings.deterministic)
        loaders = build_training_loaders(settings)
        model = build_model(settings, loaders["train"].dataset)
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
        trainer = kind(
            settings=settings,
            model=model,
            loaders=loaders,
            run=tmp_path / folder,
            **settings.trainer.arguments,
        )
        trainer.fit()
        return trainer

    return run


def alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two batches hold the same, but for the rounding of different devices."""
    return one.keys() == other.keys() and all(
        torch.allclose(value.cpu(), other[name].cpu(), atol=1e-6) for name, value in one.items()
    )


def test_batches_are_made_where_the_data_are(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that is not there: torch knows of its tensors all but their values."""
    given = set()

    class Watched(Synthetic):
        in_memory = True
        uses_global_rng = False

        def __getitems__(self, indices: Tensor) -> Batch:
            given.add(indices.device.type)
            return super().__getitems__(indices)

        def transform(self, batch: Batch, generator: Generator | None) -> Batch:
            if generator:
                given.add(uniform(generator, 1).device.type)
                random_crop(batch["input"], 1, generator)
                random_horizontal_flip(batch["input"], generator)
            return super().transform(batch, generator)

    monkeypatch.setattr(synthetic, "Synthetic", Watched)
    loaders = build_training_loaders(make_settings("trainer.accumulate=2"))
    given.clear()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        for loader in loaders.values():
            dataset = loader.dataset
            for name in dataset.device_tensors:
                setattr(dataset, name, fake.from_tensor(getattr(dataset, name)))
            dataset.to(CUDA)
            batches = next(loader.steps(0, 1))
            assert len(batches) == loader.accumulate
            found = {name: (v.device.type, len(v)) for b in batches for name, v in b.items()}
            assert found == dict.fromkeys(("input", "target"), ("cuda", loader.batch_size))
    assert given == {"cuda"}
    order_of.cache_clear()  # of what is not there


@needs_cuda
def test_data_in_memory_move_to_the_device_and_give_the_same_batches(
    make_settings: MakeSettings,
) -> None:
    settings = make_settings("trainer.accumulate=2")
    on_cpu, on_cuda = (build_training_loaders(settings)["train"] for _ in range(2))
    on_cuda.cache_on_device(CUDA)
    assert on_cuda.dataset.device.type == "cuda"
    fingerprint = on_cuda.dataset.fingerprint
    del on_cuda.dataset.fingerprint
    assert on_cuda.dataset.fingerprint == fingerprint
    for ours, theirs in zip(on_cuda.steps(0, 20), on_cpu.steps(0, 20), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one["input"].is_cuda and one["target"].is_cuda
            assert alike(one, other)
    assert alike(on_cuda.sample_batch(7), on_cpu.sample_batch(7))
    assert not on_cuda.sample_batch(7)["input"].is_cuda


@needs_cuda
def test_data_stay_on_the_host_for_workers_and_where_there_is_no_room(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = build_training_loaders(make_settings("data.workers=1"))["train"]
    loader.cache_on_device(CUDA)
    assert loader.dataset.device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 10**9))
    loader = build_training_loaders(make_settings())["train"]
    loader.cache_on_device(CUDA)
    assert loader.dataset.device.type == "cpu"


@needs_cuda
def test_batches_of_workers_arrive_whole(make_settings: MakeSettings) -> None:
    settings = make_settings("data.workers=2")
    loader = build_training_loaders(settings)["train"]
    plain = build_loader(make_settings(), loader.dataset, training=True)
    for ours, theirs in zip(loader.steps(0, 20), plain.steps(0, 20), strict=True):
        moved = move(ours[0], CUDA)
        assert moved["input"].is_cuda
        torch.cuda.current_stream().synchronize()
        assert alike(moved, theirs[0])


@needs_cuda
@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("trainer.ema=0.9", "trainer.clip_norm=1", "trainer.accumulate=2"),
        ("trainer.precision=bf16", "optimizer.name=AdamW", "optimizer.lr=0.001"),
        ("trainer.precision=fp16", "trainer.clip_norm=1"),
        ("data.workers=1",),
        ("trainer.balanced=true", "scheduler.name=one_cycle"),
    ],
    ids=" ".join,
)
def test_the_host_waits_for_the_device_only_to_log_and_to_save(
    changes: tuple[str, ...], fit: Callable[..., Classifier]
) -> None:
    trainer = fit("logger.every_steps=7", *changes, kind=Strict)
    assert trainer.finished


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_number_format_learns_as_well_and_compiled_too(
    precision: str, fit: Callable[..., Classifier]
) -> None:
    options = (f"trainer.precision={precision}", "trainer.epochs=6")
    results = []
    for k, compiled in enumerate(("false", "true")):
        trainer = fit(*options, f"trainer.compile={compiled}", folder=f"run{k}")
        weights = trainer.model.state_dict()
        assert all(w.dtype != torch.float16 for w in weights.values())
        assert not any("_orig_mod" in name for name in weights)
        results.append(trainer.evaluate("validation")["accuracy"].item())
    assert min(results) > 0.6 and abs(results[0] - results[1]) < 0.1
    if precision == "fp16":
        assert trainer.scaler.get_scale() > 1


@needs_cuda
def test_a_run_that_goes_on_ends_with_the_same_bits(
    fit: Callable[..., Classifier], tmp_path: Path, make_settings: MakeSettings
) -> None:
    options = ["deterministic=true", "trainer.ema=0.9", "trainer.precision=bf16"]
    options += ["checkpoint.every_steps=5", "checkpoint.keep=9"]
    whole = fit(*options)
    settings = make_settings("device=cuda", *options)
    loaders = build_training_loaders(settings)
    model = build_model(settings, loaders["train"].dataset)
    (tmp_path / "again/checkpoints").mkdir(parents=True)
    again = Classifier(
        settings=settings,
        model=model,
        loaders=loaders,
        run=tmp_path / "again",
        **settings.trainer.arguments,
    )
    again.load_state_dict(load_checkpoint(tmp_path / "run/checkpoints/step_00000010.pt"))
    again.fit()
    torch.use_deterministic_algorithms(False)
    assert again.step == whole.step > 10
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
