"""Networks: gradients, capacity, freezing, summaries, and pretrained weights."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from base.base_dataset import BaseDataset, Batch
from base.base_model import BaseModel
from builders import build_new_model, build_trained_model
from config.schema import Settings
from model.losses import cross_entropy
from model.networks import NEIGHBOUR_CORRELATION, ConvNet, dct_filters
from optim.optimizers import build_optimizers
from storage.checkpoint_file import load_checkpoint, save_checkpoint
from storage.state import evaluation_weights
from utils.errors import UserError
from utils.randomness import make_generator

NETWORKS = ("networks.ConvNet", "networks.MLP")  # add yours
MakeSettings = Callable[..., Settings]
Build = Callable[..., BaseModel]


@pytest.fixture
def batch(splits: dict[str, BaseDataset]) -> Batch:
    """The first 32 training images, transformed."""
    dataset = splits["train"]
    return dataset.transform(dataset.__getitems__(torch.arange(32)), None)


@pytest.fixture
def build(make_settings: MakeSettings, splits: dict[str, BaseDataset]) -> Build:
    """``build("model.width=8")``: a network for the synthetic data."""
    return lambda *changes: build_new_model(make_settings(*changes), splits["train"])


@pytest.fixture
def networks(build: Build) -> list[BaseModel]:
    """The networks that have to pass these tests, with default arguments."""
    torch.manual_seed(0)
    return [build(f"model.name={name}") for name in NETWORKS]


def test_every_parameter_gets_a_finite_gradient(networks: list[BaseModel], batch: Batch) -> None:
    for model in networks:
        cross_entropy(model(batch["input"]), batch["target"]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_each_network_overfits_one_batch(networks: list[BaseModel], batch: Batch) -> None:
    for model in networks:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            cross_entropy(model(batch["input"]), batch["target"]).backward()
            optimizer.step()
        logits = model.eval()(batch["input"])
        assert torch.equal(logits.argmax(1), batch["target"]), type(model).__name__
        assert cross_entropy(logits, batch["target"]) < 0.1, type(model).__name__


def test_logits_of_an_image_do_not_depend_on_the_rest_of_the_batch(
    networks: list[BaseModel], batch: Batch
) -> None:
    for model in networks:
        together = model.eval()(batch["input"])
        assert together.shape == (32, 10)
        assert torch.allclose(model(batch["input"][3:4])[0], together[3], atol=1e-5)


def test_mirror_averages_the_logits_of_both_flips_in_evaluation_only(
    build: Build, batch: Batch
) -> None:
    plain = build()
    mirroring = build("model.mirror=true")
    mirroring.load_state_dict(plain.state_dict())
    images = batch["input"]
    assert torch.equal(mirroring(images), plain(images))
    plain.eval()
    mirroring.eval()
    mean = (plain(images) + plain(images.flip(3))) / 2
    assert torch.equal(mirroring(images), mean)
    assert torch.allclose(mirroring(images.flip(3)), mean)


def test_dct_filters_are_an_orthogonal_basis_of_cosines() -> None:
    flat = functional.normalize(dct_filters(5).flatten(1))
    wave = torch.cos(torch.pi * (torch.arange(5) + 0.5) / 5)
    assert torch.allclose(flat @ flat.T, torch.eye(25), atol=1e-6)
    assert torch.allclose(flat[0], torch.full((25,), 0.2))
    horizontal = wave.repeat(5)
    assert torch.allclose(flat[1], horizontal / horizontal.norm(), atol=1e-6)
    vertical = wave.repeat_interleave(5)
    assert torch.allclose(flat[5], vertical / vertical.norm(), atol=1e-6)


def test_dct_filters_have_responses_of_the_same_variance() -> None:
    distances = (torch.arange(3.0)[:, None] - torch.arange(3.0)).abs()
    factor = torch.linalg.cholesky(NEIGHBOUR_CORRELATION**distances)
    noise = torch.randn(100_000, 3, 3, generator=make_generator(0))
    patches = factor @ noise @ factor.T
    responses = patches.flatten(1) @ dct_filters(3).flatten(1).T
    assert torch.allclose(responses.var(0), torch.ones(9), atol=0.05)


def test_the_gradient_of_the_input_is_finite_without_edges(build: Build, batch: Batch) -> None:
    images = torch.zeros_like(batch["input"]).requires_grad_()
    build().eval()(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_images_of_one_pixel_are_accepted(build: Build) -> None:
    model = build().eval()
    dark = model(torch.zeros(1, 1, 1, 1))
    bright = model(torch.ones(1, 1, 1, 1))
    assert dark.shape == (1, 10)
    assert not torch.equal(dark, bright)


# Counting, freezing and summarising parameters


def test_all_or_only_trainable_parameters_are_counted(build: Build) -> None:
    model = build("model.name=networks.MLP", "model.width=8", "model.classes=3")
    layers = [784 * 8 + 8, 8 * 8 + 8, 8 * 3 + 3]
    assert model.count_parameters() == model.count_parameters(trainable=True) == sum(layers)
    model.freeze(["layers.1.*"])
    assert model.count_parameters() == sum(layers)
    assert model.count_parameters(trainable=True) == sum(layers[1:])


def test_frozen_parameters_do_not_change_in_training(
    build: Build, make_settings: MakeSettings, batch: Batch
) -> None:
    model = build("model.freeze=[stage1.*, '*.1.weight']")
    frozen = {"stage1.0.weight", "stage1.1.weight", "stage1.1.bias"}
    frozen |= {"residual1.1.weight", "stage2.1.weight", "residual2.1.weight"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    cross_entropy(model(batch["input"]), batch["target"]).backward()
    for optimizer in build_optimizers(model, make_settings("optimizer.weight_decay=0.1")):
        optimizer.step()
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == frozen


def test_frozen_batch_normalisation_keeps_its_statistics(build: Build, batch: Batch) -> None:
    model = build("model.freeze=[stage1.*]")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(batch["input"])
    model.eval()
    model.train()
    model(batch["input"])
    now = model.state_dict()
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert not any(name.startswith("stage1") for name in changed)
    assert {"residual1.1.running_mean", "stage2.1.running_mean"} <= changed


def test_a_pattern_that_matches_no_parameter_is_an_error(build: Build) -> None:
    with pytest.raises(
        UserError, match=r"model\.freeze.*'stagee1\.\*'.* stage1\.\*, residual1\.\*"
    ):
        build("model.freeze=[head.*, stagee1.*]")


def test_freezing_all_parameters_is_an_error(build: Build, make_settings: MakeSettings) -> None:
    with pytest.raises(UserError, match=r"model\.freeze"):
        build_optimizers(build("model.freeze=['*']"), make_settings())


def test_the_summary_lists_shape_and_size_of_each_parameter(build: Build) -> None:
    model = build("model.name=networks.MLP", "model.width=8", "model.classes=3")
    model.freeze(["layers.5.*"])
    assert model.summary() == [
        ("layer", "shape", "parameters"),
        ("layers.1.weight", "(8, 784)", "6,272"),
        ("layers.1.bias", "(8,)", "8"),
        ("layers.3.weight", "(8, 8)", "64"),
        ("layers.3.bias", "(8,)", "8"),
        ("layers.5.weight", "(3, 8)", "24"),
        ("layers.5.bias", "(3,)", "3"),
        ("total", "", "6,379 (27 frozen)"),
    ]


# Pretrained weights


def test_only_new_models_are_initialized(
    trained_run: Path,
    make_settings: MakeSettings,
    splits: dict[str, BaseDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[BaseModel] = []
    monkeypatch.setattr(ConvNet, "initialize", lambda model: calls.append(model))
    state = load_checkpoint(trained_run / "checkpoints/best.pt")
    build_trained_model(make_settings(), splits["train"], state)
    assert calls == []
    model = build_new_model(make_settings(), splits["train"])
    assert calls == [model]


def test_init_from_loads_matching_weights_and_keeps_the_others(
    tmp_path: Path, build: Build
) -> None:
    torch.manual_seed(1)
    source = build().state_dict()
    save_checkpoint(tmp_path / "weights.pt", {"model": source})
    torch.manual_seed(2)
    untouched = build("model.classes=7").state_dict()
    torch.manual_seed(2)
    changes = ["model.classes=7", f"model.init_from={tmp_path / 'weights.pt'}"]
    for name, value in build(*changes).state_dict().items():
        if name.startswith("head"):
            assert torch.equal(value, untouched[name]), name
        else:
            assert torch.equal(value, source[name]), name


def test_init_from_loads_the_best_weights_of_a_run(trained_run: Path, build: Build) -> None:
    best = evaluation_weights(load_checkpoint(trained_run / "checkpoints/best.pt"))
    for source in (trained_run, trained_run / "checkpoints/best.pt"):
        model = build(f"model.init_from={source}")
        assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())


def test_init_from_without_matching_weights_is_an_error(
    tmp_path: Path, trained_run: Path, build: Build
) -> None:
    for source in (trained_run, tmp_path / "missing.pt", tmp_path / "missing"):
        with pytest.raises(UserError, match=str(source)):
            build("model.name=networks.MLP", f"model.init_from={source}")


def test_a_checkpoint_of_another_network_is_an_error(
    trained_run: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", trained_run, "model.name=networks.MLP") == 2
    message = capsys.readouterr().err
    for part in ("checkpoint", "layers.1.weight", "stage1.1.running_mean", "..."):
        assert part in message
    assert max(map(len, message.splitlines())) < 160
