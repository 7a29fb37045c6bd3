"""Image files: reading, augmentation, training, and fine-tuning of a pretrained backbone."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import ROOT, needs
from exported import prepare_image, read_about, run_outside
from launcher import launch
from PIL import Image
from torch import Tensor

from base.base_dataset import BaseDataset
from base.batch_loader import Step
from builders import (
    build_fitted_dataset,
    build_loader,
    build_new_model,
    build_trainer,
    restore_trainer,
)
from config.loading import load_settings
from data_loader.example_shapes import make_shapes
from data_loader.tables import write_rows
from storage.checkpoint_file import load_checkpoint
from utils.errors import UserError
from utils.randomness import make_generator

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
CONFIG = ROOT / "config/image_csv.yaml"
TRANSFER = ROOT / "config/transfer.yaml"
COLUMNS = ("data.file=mine.csv", "data.image=path", "data.target=kind")
QUICK = ("device=cpu", "logger.tensorboard=false", "data.workers=0", "trainer.precision=fp32")


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., BaseDataset]:
    """``photos("train", "data.size=16")``: dark and bright images in several formats and modes."""
    formats = [("RGB", "png"), ("L", "bmp"), ("RGB", "jpg"), ("RGBA", "webp"), ("P", "gif")]
    rows: list[tuple[str, str]] = []
    for k in range(60):
        mode, suffix = formats[k % 5]
        if k % 3 == 0:
            label = "bright"
            colour = (250, 190, 250)
        else:
            label = "dark"
            colour = (5, 65, 5)
        image = Image.new("RGB", (20 + k, 50 - k // 2), colour)
        image.convert(mode).save(tmp_path / f"{k}.{suffix}")
        rows.append((f"{k}.{suffix}", label))
    write_rows(tmp_path / "mine.csv", [("path", "kind"), *rows])
    own = [f"data.root={tmp_path}", *COLUMNS]
    return lambda split, *more: build_fitted_dataset(load_settings(CONFIG, [*own, *more]), split)


def test_images_of_any_format_and_size_become_rgb_squares(
    photos: Callable[..., BaseDataset],
) -> None:
    train = photos("train", "data.size=16")
    batch = train.__getitems__(torch.arange(len(train)))
    assert batch["input"].shape == (len(train), 3, 18, 18)
    assert batch["input"].dtype == torch.uint8
    bright = batch["target"] == train.classes.index("bright")
    assert 0 < bright.sum() < len(train) / 2
    assert batch["input"][bright].amin() > 150
    assert batch["input"][~bright].amax() < 100
    test = photos("test", "data.size=16")
    test.load_state_dict(train.state_dict())
    assert test.transform(test.__getitems__(torch.arange(4)), None)["input"].shape == (4, 3, 16, 16)
    (name, sample), *_ = test.read_inputs(str(Path("mine.csv").parent / "4.gif"))
    assert (name, sample["input"].shape) == ("4.gif", (3, 18, 18))
    listed = test.read_inputs("mine.csv")
    assert [Path(name).name for name, _ in listed[:3]] == ["0.png", "1.bmp", "2.jpg"]
    assert torch.equal(listed[4][1]["input"], sample["input"])


def test_training_images_are_cropped_at_random_and_others_at_the_centre(
    photos: Callable[..., BaseDataset],
) -> None:
    train = photos("train", "data.size=16", "data.flip=false")
    pixels = torch.arange(18 * 18).reshape(1, 1, 18, 18).expand(64, 3, 18, 18) % 256
    batch = {"input": pixels.byte(), "target": torch.zeros(64)}
    plain = train.transform(batch, None)["input"]
    mean, std = train.state_dict()["mean_and_std"]
    centre = (pixels[:, :, 1:17, 1:17] - 255 * mean) / (255 * std)
    assert torch.allclose(plain, centre, atol=1e-5)
    augmented = train.transform(batch, make_generator(1))["input"]
    windows = {tuple(image[0, :2, :2].flatten().tolist()) for image in augmented}
    assert len(windows) == 9  # three positions across, three down
    assert torch.equal(augmented, train.transform(batch, make_generator(1))["input"])
    flipped = photos("train", "data.size=16").transform(batch, make_generator(1))["input"]
    rising = (flipped[:, 0, 0, 1] > flipped[:, 0, 0, 0]).sum()
    assert 16 < rising < 48


def test_missing_and_damaged_images_are_refused_with_their_names(
    photos: Callable[..., BaseDataset], tmp_path: Path, command: Command, capsys: Captured
) -> None:
    photos("train")
    (tmp_path / "7.jpg").write_bytes((tmp_path / "7.jpg").read_bytes()[:200])
    own = (f"data.root={tmp_path}", *COLUMNS)
    assert command("train", "--config", CONFIG, *own, *QUICK) == 2
    assert "7.jpg: cannot be read" in capsys.readouterr().err
    for name in ("7.jpg", "12.jpg", "3.webp", "4.gif"):
        (tmp_path / name).unlink()
    assert command("train", "--config", CONFIG, *own, *QUICK) == 2
    error = capsys.readouterr().err
    for part in (
        "mine.csv",
        "4 of 60 files",
        str(tmp_path),
        "'3.webp' (line 5)",
        "'7.jpg' (line 9)",
    ):
        assert part in error
    assert "12.jpg" not in error  # three are listed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("colour\\Red 1.PNG", ("/ instead of \\,",)),
        ("C:\\Users\\me\\Red 1.PNG", ("/ instead of \\,", "relative to the table")),
        ("Colour/red 1.png", ("'colour/Red 1.PNG'", "case")),
        ("colour/red 2.png", ("add the files",)),
        ("colour/Red 1.PNG/a.png", ("add the files",)),
        ("../elsewhere/Red 1.PNG", ("add the files",)),
    ],
)
def test_paths_of_other_systems_are_explained(
    tmp_path: Path, name: str, parts: tuple[str, ...]
) -> None:
    (tmp_path / "colour").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "colour/Red 1.PNG")
    if (tmp_path / name).exists():
        pytest.skip("the file system does not distinguish these paths")
    rows = [(name, "ab"[k % 2]) for k in range(24)]
    write_rows(tmp_path / "mine.csv", [("path", "kind"), *rows])
    settings = load_settings(CONFIG, [f"data.root={tmp_path}", *COLUMNS])
    with pytest.raises(UserError) as caught:
        build_fitted_dataset(settings, "train")
    for part in (repr(name), "line 2", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_the_table_and_the_file_system_may_use_different_unicode_forms(
    tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    other: Literal["NFC", "NFD"] = "NFD" if form == "NFC" else "NFC"
    rows = [("path", "kind")]
    for k in range(24):
        name = f"café {k}.png"
        Image.new("L", (8, 8), 10 * k).save(tmp_path / unicodedata.normalize(other, name))
        label = unicodedata.normalize(form if k % 4 else other, f"été {k % 2}")
        rows.append((unicodedata.normalize(form, name), label))
    write_rows(tmp_path / "mine.csv", rows)
    settings = load_settings(CONFIG, [f"data.root={tmp_path}", *COLUMNS, "data.size=8"])
    train = build_fitted_dataset(settings, "train")
    assert len(train.classes) == 2
    assert train.__getitems__(torch.arange(len(train)))["input"].shape == (len(train), 3, 9, 9)


def test_white_is_a_setting_that_predictions_use(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    rows = [("path", "kind")]
    for k in range(24):
        pixels = np.full((8, 8), 4000 * (k % 2), np.int32)
        Image.fromarray(pixels).save(tmp_path / f"{k}.tif")
        rows.append((f"{k}.tif", f"class {k % 2}"))
    write_rows(tmp_path / "mine.csv", rows)
    own = (f"data.root={tmp_path}", *COLUMNS, *QUICK, "data.size=8", "trainer.max_steps=1")
    assert command("train", "--config", CONFIG, "--run-dir", "run", *own) == 2
    error = capsys.readouterr().err
    for part in (".tif", "data.white"):
        assert part in error
    white = "data.white=4095"
    assert command("train", "--config", CONFIG, "--run-dir", "run", *own, white) == 0
    Image.fromarray(np.full((8, 8), 5000, np.int32)).save(tmp_path / "bright.tif")
    assert command("predict", "run", tmp_path / "1.tif") == 0
    assert command("predict", "run", tmp_path / "bright.tif") == 2
    error = capsys.readouterr().err
    for part in ("bright.tif", "5000", "4095", "data.white"):
        assert part in error


def test_a_damaged_image_that_is_found_during_training_is_refused_with_its_name(
    photos: Callable[..., BaseDataset],
    tmp_path: Path,
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos("train")
    monkeypatch.setattr("data_loader.image_csv.MAX_STATISTICS_IMAGES", 2)
    monkeypatch.setattr(BaseDataset, "probe_indices", torch.tensor([0]))
    (tmp_path / "7.jpg").write_bytes((tmp_path / "7.jpg").read_bytes()[:200])
    own = (f"data.root={tmp_path}", *COLUMNS)
    assert command("train", "--config", CONFIG, *own, *QUICK, "data.workers=1") == 2
    assert "7.jpg: cannot be read" in capsys.readouterr().err


def test_the_example_data_are_reproducible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_shapes(tmp_path / name / "shapes.csv")
    for file in (tmp_path / "a").rglob("*.*"):
        other = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert other.read_bytes() == file.read_bytes()


def test_a_model_learns_and_predicts_the_classes_of_images(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    changes = (f"data.root={tmp_path}", "data.size=32", "trainer.epochs=5", *QUICK)
    assert command("train", "--config", CONFIG, "--run-dir", "run", *changes) == 0
    assert command("evaluate", "run") == 0
    assert json.loads(Path("run/evaluation/test/metrics.json").read_text())["f1"] > 0.9
    capsys.readouterr()
    files = sorted((tmp_path / "images/shapes").iterdir())[:20]
    assert command("predict", "run", *files, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    predicted = [entry["predictions"][0]["class"] for entry in entries]
    lines = (tmp_path / "images/shapes.csv").read_text().split("\n")[1:21]
    true = [line.split(",")[1] for line in lines]
    assert sum(a == b for a, b in zip(predicted, true, strict=True)) >= 18


# Transfer learning


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of ResNet-18 weights in torchvision's format."""
    from torchvision.models import resnet18

    torch.manual_seed(1)
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


@pytest.fixture
def tune(photos: Callable[..., BaseDataset], tmp_path: Path) -> Callable[..., Any]:
    """``tune("trainer.epochs=2")``: a trainer of the backbone on the photos."""

    def build(*changes: str) -> Any:
        own = (f"data.root={tmp_path}", *COLUMNS, "data.size=32", "data.batch_size=16")
        settings = load_settings(TRANSFER, [*own, *QUICK, *changes])
        train = build_fitted_dataset(settings, "train")
        loader = build_loader(settings, train, training=True)
        loaders = {"train": loader, "validation": build_loader(settings, train)}
        (tmp_path / "run/checkpoints").mkdir(parents=True, exist_ok=True)
        return build_trainer(settings, build_new_model(settings, train), loaders, tmp_path / "run")

    return build


@needs(TRANSFER)
def test_a_backbone_loads_all_weights_except_those_of_the_last_layer(
    tune: Callable[..., Any], weights: Path
) -> None:
    model = tune(f"model.weights={weights}").model
    known = torch.load(weights, weights_only=True)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, known[name]), name
    assert {*known} - {*model.network.state_dict()} == {"fc.weight", "fc.bias"}
    assert model.head.weight.shape == (2, 512)


@needs(TRANSFER)
def test_the_backbone_is_frozen_until_its_epoch_and_has_its_own_learning_rate(
    tune: Callable[..., Any],
) -> None:
    trainer = tune("model.weights=none", "trainer.epochs=2", "trainer.unfreeze_epoch=2")
    first = trainer.loaders["train"].steps_per_epoch
    rates: list[list[float]] = []
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    update = trainer.update

    def watched(step: Step) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = update(step)
        rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        changed = set()
        for name, value in trainer.model.state_dict().items():
            if not torch.equal(value, before[name]):
                changed.add(name)
        if trainer.progress.step < first:  # the statistics of batch normalization are frozen, too
            assert changed == {"head.weight", "head.bias"}
        else:
            assert {"network.conv1.weight", "network.bn1.running_mean"} <= changed
        return outputs

    trainer.update = watched
    trainer.fit()
    assert len(rates) == 2 * first
    for fast, *_, slow in rates:
        assert slow == pytest.approx(0.1 * fast)


@needs(TRANSFER)
def test_resuming_before_and_after_unfreezing_gives_the_same_weights(
    tune: Callable[..., Any],
) -> None:
    changes = ("model.weights=none", "trainer.epochs=2", "trainer.unfreeze_epoch=2")
    steps = ("checkpoint.every_steps=1", "checkpoint.keep=100")
    whole = tune(*changes, *steps)
    whole.fit()
    expected = whole.model.state_dict()
    folder = whole.run / "checkpoints"
    assert whole.loaders["train"].steps_per_epoch == 3
    for step in (2, 5):  # before and after unfreezing
        resumed = tune(*changes, *steps)
        resumed.load_state_dict(load_checkpoint(folder / f"step_{step:08d}.pt"))
        resumed.fit()
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, expected[name]), (step, name)


@needs(TRANSFER)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_processes_unfreeze_at_the_same_step(
    photos: Callable[..., BaseDataset], tmp_path: Path, strategy: str
) -> None:
    """Otherwise their weights would differ, which stops a run at the next checkpoint."""
    own = (f"data.root={tmp_path}", *COLUMNS, *QUICK, "data.size=16", "model.weights=none")
    schedule = ("trainer.epochs=2", "trainer.unfreeze_epoch=2")
    changes = (*own, *schedule, f"trainer.strategy={strategy}")
    launch(2, ROOT / "train.py", "--config", TRANSFER, *changes, "--run-dir", "run")
    state = load_checkpoint(Path("run/checkpoints/last.pt"))
    assert state["model"]["network.bn1.num_batches_tracked"] > 0


@needs(TRANSFER)
def test_a_batch_that_is_too_small_once_the_backbone_is_trained_is_refused_at_the_start(
    photos: Callable[..., BaseDataset], tmp_path: Path, command: Command, capsys: Captured
) -> None:
    """Batch normalisation of a single sample fails only when it is not frozen any more."""
    all_but_one = len(photos("train")) - 1
    data = (f"data.root={tmp_path}", *COLUMNS, "data.size=32", f"data.batch_size={all_but_one}")
    schedule = ("trainer.epochs=2", "trainer.unfreeze_epoch=2", "model.weights=none")
    own = ("--config", TRANSFER, *data, *QUICK, *schedule, "--run-dir", "run")
    assert command("train", *own) == 2
    error = capsys.readouterr().err
    for part in ("last batch", f"data.batch_size = {all_but_one}", "data.drop_last=true"):
        assert part in error
    assert not list(Path("run").glob("checkpoints/*.pt"))
    assert command("train", *own, "data.drop_last=true") == 0


@needs(TRANSFER)
def test_unavailable_weights_are_reported_with_what_to_do(
    photos: Callable[..., BaseDataset],
    tmp_path: Path,
    weights: Path,
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos("train")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    data = (f"data.root={tmp_path}", *COLUMNS, "data.size=32")
    own = ("--config", TRANSFER, *data, *QUICK, "trainer.max_steps=1")
    assert command("train", *own) == 69
    error = capsys.readouterr().err
    folder = tmp_path / "torch/hub/checkpoints"
    for part in ("https://download.pytorch.org/models/resnet18-f37072fd.pth", str(folder)):
        assert part in error
    weights.rename(folder / "resnet18-f37072fd.pth")
    assert command("train", *own, "--run-dir", "run") == 0
    (folder / "resnet18-f37072fd.pth").unlink()  # a trained model does not need it
    assert restore_trainer([Path("run/checkpoints/last.pt")], None, [])[0].progress.step == 1
    capsys.readouterr()
    for change, parts in {
        "model.weights=mine.csv": ("model.weights", "mine.csv", "resnet18", "torch.save"),
        "model.weights=gone.pth": ("model.weights", "gone.pth", "resnet18", "does not exist"),
        "model.architecture=resnet19": ("model.architecture", "resnet19", "resnet18"),
    }.items():
        assert command("train", *own, change) == 2
        message = capsys.readouterr().err
        assert all(part in message for part in parts)


def test_the_head_is_replaced_in_every_family_of_torchvision(tmp_path: Path) -> None:
    from model.backbone import Backbone

    class Two(BaseDataset):
        classes = ("a", "b")

        def __len__(self) -> int:
            raise NotImplementedError

        def __getitem__(self, index: int) -> Any:
            raise NotImplementedError

    for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "alexnet", "swin_t"):
        model = Backbone(Two(), name).eval()
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2), name
    with pytest.raises(UserError, match="squeezenet1_1"):
        Backbone(Two(), "squeezenet1_1")


def test_a_program_without_the_project_prepares_an_image(
    photos: Callable[..., BaseDataset], tmp_path: Path, command: Command, capsys: Captured
) -> None:
    photos("train")
    data = (f"data.root={tmp_path}", *COLUMNS, "data.size=20", "data.white=4095")
    own = (*data, *QUICK, "trainer.max_steps=3")
    assert command("train", "--config", CONFIG, "--run-dir", "run", *own) == 0
    assert command("export", "run") == 0
    about = read_about(Path("run"))
    image = Image.linear_gradient("L").resize((90, 40))
    image = Image.merge(
        "RGB", [image, image.rotate(180), image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    )
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera was turned
    image.save("turned.png", exif=orientation)
    pixels = np.asarray(image.convert("L"), dtype=np.uint16) * 16
    Image.fromarray(pixels).save("12_bits.png")
    for name in ("3.webp", "12.jpg", "turned.png", "12_bits.png"):
        array = prepare_image(tmp_path / name, about)
        logits = run_outside(Path("run/export/model.pt2"), array, tmp_path / f"{name}.outside")
        capsys.readouterr()
        assert command("predict", "run", tmp_path / name, "--json") == 0
        (entry,) = json.loads(capsys.readouterr().out)["inputs"]
        probabilities = logits[0].softmax(0)
        for answer in entry["predictions"]:
            index = about["data"]["classes"].index(answer["class"])
            assert probabilities[index].item() == pytest.approx(answer["probability"], abs=2e-3)
