"""Networks: gradients, capacity, freezing, summaries, and weights taken from elsewhere."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from base.base_dataset import BaseDataset, Batch
from base.base_model import BaseModel
from builders import build_model
from config.schema import Settings
from model.losses import cross_entropy
from model.networks import cosines
from optim.optimizers import build_optimizers
from storage.checkpoint_file import evaluation_weights, load_checkpoint, save_checkpoint
from utils.errors import UserError

NETWORKS = ("networks.ConvNet", "networks.MLP")  # add yours
MakeSettings = Callable[..., Settings]
Build = Callable[..., BaseModel]


@pytest.fixture
def batch(splits: dict[str, BaseDataset]) -> Batch:
    """What a network gets for the first 32 training images."""
    dataset = splits["train"]
    return dataset.transform(dataset.__getitems__(torch.arange(32)), None)


@pytest.fixture
def build(make_settings: MakeSettings, splits: dict[str, BaseDataset]) -> Build:
    """``build("model.width=8")``: a network for the synthetic data."""
    return lambda *changes: build_model(make_settings(*changes), splits["train"])


@pytest.fixture
def networks(build: Build) -> list[BaseModel]:
    """The networks in model/, with their default arguments."""
    torch.manual_seed(0)
    return [build(f"model.name={name}") for name in NETWORKS]


def test_every_parameter_gets_a_finite_gradient(networks: list[BaseModel], batch: Batch) -> None:
    for model in networks:
        cross_entropy(model(batch["input"]), batch["target"]).mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_each_network_can_learn_one_batch_by_heart(networks: list[BaseModel], batch: Batch) -> None:
    for model in networks:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            cross_entropy(model(batch["input"]), batch["target"]).mean().backward()
            optimizer.step()
        logits = model.eval()(batch["input"])
        assert torch.equal(logits.argmax(1), batch["target"]), type(model).__name__
        assert cross_entropy(logits, batch["target"]).mean() < 0.1, type(model).__name__


def test_an_image_is_classified_the_same_alone_and_among_others(
    networks: list[BaseModel], batch: Batch
) -> None:
    for model in networks:
        together = model.eval()(batch["input"])
        assert together.shape == (32, 10)
        assert torch.allclose(model(batch["input"][3:4])[0], together[3], atol=1e-5)


def test_a_mirrored_look_is_for_evaluation_alone(build: Build, batch: Batch) -> None:
    plain, mirroring = build(), build("model.mirror=true")
    mirroring.load_state_dict(plain.state_dict())
    images = batch["input"]
    assert torch.equal(mirroring(images), plain(images))
    plain.eval(), mirroring.eval()
    both = (plain(images) + plain(images.flip(3))) / 2
    assert torch.equal(mirroring(images), both)
    assert torch.allclose(mirroring(images.flip(3)), both)


def test_the_filters_are_the_frequencies_of_a_patch() -> None:
    flat, wave = cosines(5).flatten(1), torch.cos(torch.pi * (torch.arange(5) + 0.5) / 5)
    assert torch.allclose(flat @ flat.T, torch.eye(25), atol=1e-6)
    assert torch.allclose(flat[0], torch.full((25,), 0.2))
    across = wave.repeat(5)
    assert torch.allclose(flat[1], across / across.norm(), atol=1e-6)
    down = wave.repeat_interleave(5)
    assert torch.allclose(flat[5], down / down.norm(), atol=1e-6)


def test_the_input_has_a_gradient_where_no_edge_is(build: Build, batch: Batch) -> None:
    images = torch.zeros_like(batch["input"]).requires_grad_()
    build().eval()(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_an_image_may_be_one_pixel(build: Build) -> None:
    model = build().eval()
    dark, bright = model(torch.zeros(1, 1, 1, 1)), model(torch.ones(1, 1, 1, 1))
    assert dark.shape == (1, 10) and not torch.equal(dark, bright)


# Counting, freezing, summarising


def test_parameters_are_counted(build: Build) -> None:
    model = build("model.name=networks.MLP", "model.width=8", "model.classes=3")
    layers = [784 * 8 + 8, 8 * 8 + 8, 8 * 3 + 3]
    assert model.count_parameters() == model.count_parameters(trainable=True) == sum(layers)
    model.freeze(["layers.1.*"])
    assert model.count_parameters() == sum(layers)
    assert model.count_parameters(trainable=True) == sum(layers[1:])


def test_frozen_parameters_stay_as_they_are(
    build: Build, make_settings: MakeSettings, batch: Batch
) -> None:
    model = build("model.freeze=[stage1.*, '*.1.weight']")
    frozen = {"stage1.0.weight", "stage1.1.weight", "stage1.1.bias"}
    frozen |= {"residual1.1.weight", "stage2.1.weight", "residual2.1.weight"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    cross_entropy(model(batch["input"]), batch["target"]).mean().backward()
    for optimizer in build_optimizers(model, make_settings("optimizer.weight_decay=0.1")):
        optimizer.step()
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == frozen


def test_frozen_batch_normalisation_stays_as_it_is_evaluated(build: Build, batch: Batch) -> None:
    model = build("model.freeze=[stage1.*]")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for again in (model, model.train()):  # also after an evaluation
        again(batch["input"])
    now = model.state_dict()
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert not any(name.startswith("stage1") for name in changed)
    assert {"contrast.running_mean", "stage2.1.running_mean"} <= changed


def test_a_pattern_that_matches_nothing_is_an_error(build: Build) -> None:
    with pytest.raises(UserError, match=r"'stagee1\.\*' matches no parameter; try stage1\.\*, res"):
        build("model.freeze=[head.*, stagee1.*]")


def test_there_must_be_something_left_to_train(build: Build, make_settings: MakeSettings) -> None:
    with pytest.raises(UserError, match=r"model\.freeze"):
        build_optimizers(build("model.freeze=['*']"), make_settings())


def test_a_summary_has_each_parameter_with_its_shape_and_size(build: Build) -> None:
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


# Weights from elsewhere


def test_init_from_takes_the_weights_that_fit_and_leaves_the_others(
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
        wanted = untouched if name.startswith("head") else source
        assert torch.equal(value, wanted[name]), name


def test_init_from_takes_the_best_weights_of_a_run(trained_run: Path, build: Build) -> None:
    best = evaluation_weights(load_checkpoint(trained_run / "checkpoints/best.pt"))
    for source in (trained_run, trained_run / "checkpoints/best.pt"):
        model = build(f"model.init_from={source}")
        assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())


def test_init_from_must_have_weights_that_fit(
    tmp_path: Path, trained_run: Path, build: Build
) -> None:
    for source in (trained_run, tmp_path / "missing.pt", tmp_path / "missing"):
        with pytest.raises(UserError, match=str(source)):
            build("model.name=networks.MLP", f"model.init_from={source}")


def test_a_checkpoint_of_another_network_is_refused(
    trained_run: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", trained_run, "model.name=networks.MLP") == 2
    message = capsys.readouterr().err
    assert "the checkpoint is not of this model:\n" in message
    assert all(part in message for part in ("layers.1.weight", "contrast.running_mean", "..."))
    assert max(map(len, message.splitlines())) < 160


# The loss


def test_cross_entropy_is_the_mean_negative_log_probability_of_the_targets() -> None:
    logits, target = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    log_probabilities = torch.log(logits.exp() / logits.exp().sum(1, keepdim=True))
    wanted = -log_probabilities[torch.arange(5), target]
    assert torch.allclose(cross_entropy(logits, target), wanted, atol=1e-5)
    # Smoothed: a share of 0.2 of the target is spread evenly over all classes.
    smoothed = 0.8 * wanted - 0.2 * log_probabilities.mean(1)
    assert torch.allclose(cross_entropy(logits, target, 0.2), smoothed, atol=1e-5)
