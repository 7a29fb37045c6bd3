"""evaluate.py, predict.py and export.py, and what everything says of where its data is from."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from base.base_dataset import Sample
from base.base_model import BaseModel
from builders import build_model, restore_dataset, restore_trainer
from config.loading import load_settings
from data_loader.synthetic import Synthetic
from storage.state import evaluation_weights, load_checkpoint
from trainer.classifier import Classifier

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def read_table(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def trained_model(run: Path) -> BaseModel:
    """The best model of a run, ready to be used."""
    state = load_checkpoint(run / "checkpoints/best.pt")
    settings = load_settings(state["settings"])
    model = build_model(settings, restore_dataset(settings, None, state))
    model.load_state_dict(evaluation_weights(state))
    return model.eval()


# evaluate.py


@pytest.fixture(scope="module")
def evaluation(trained_run: Path, command: Command) -> Path:
    """The folder with the results of the test split."""
    assert command("evaluate", trained_run) == 0
    return trained_run / "evaluation/test"


def test_the_saved_results_agree_with_each_other(evaluation: Path) -> None:
    metrics = read_json(evaluation / "metrics.json")
    confusion = np.array([row[1:] for row in read_table(evaluation / "confusion_matrix.csv")[1:]])
    counts = confusion.astype(int)
    by_class = np.array([row[1:] for row in read_table(evaluation / "by_class.csv")[1:]])
    precision, recall, f1 = by_class.astype(float).T

    assert counts.sum() == metrics["samples"] == 303
    assert metrics["accuracy"] == pytest.approx(counts.trace() / 303, abs=1e-5)
    assert metrics["f1"] == pytest.approx(f1.mean(), abs=1e-4)
    right = counts.diagonal()
    assert recall == pytest.approx(right / counts.sum(1), abs=1e-4)
    assert precision == pytest.approx(right / counts.sum(0).clip(1), abs=1e-4)
    assert f1 == pytest.approx(2 * right / (counts.sum(0) + counts.sum(1)), abs=1e-4)


def test_the_results_are_those_of_the_best_model_on_the_test_images(
    trained_run: Path, evaluation: Path
) -> None:
    metrics = read_json(evaluation / "metrics.json")
    assert metrics["step"] == 16  # and not 32, that of the last one
    trainer, _ = restore_trainer([trained_run / "checkpoints/best.pt"], "test", [])
    dataset = trainer.dataset
    batch = dataset.transform(dataset.__getitems__(torch.arange(303)), None)
    found = trained_model(trained_run)(batch["input"]).argmax(1)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    counts.index_put_((batch["target"], found), torch.tensor(1), accumulate=True)
    table = read_table(evaluation / "confusion_matrix.csv")
    assert [[int(cell) for cell in row[1:]] for row in table[1:]] == counts.tolist()


def test_pictures_of_the_results_are_saved(evaluation: Path) -> None:
    for name in ("confusion_matrix.png", "misclassified.png"):
        with Image.open(evaluation / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.min() < 64
        assert pixels.max() == 255


def test_the_misclassified_are_those_in_one_batch_of_an_evaluation(trained_run: Path) -> None:
    best = trained_run / "checkpoints/best.pt"
    trainer, _ = restore_trainer([best], "test", ["data.batch_size=5"])
    batch = trainer.loaders["test"].sample_batch(20)
    wrong = int((trainer.predict(batch).argmax(1) != batch["target"]).sum())
    assert 5 < wrong < 25
    figure = trainer.figures("test", trainer.evaluate("test"))["misclassified"]
    assert sum("\nas " in text.get_text() for text in figure.findobj(Text)) == wrong


def test_any_split_of_any_checkpoint_can_be_evaluated(
    trained_run: Path, command: Command, logged: Callable[..., list[float]]
) -> None:
    last = trained_run / "checkpoints/last.pt"
    assert command("evaluate", last, "--split", "validation", "data.batch_size=13") == 0
    metrics = read_json(trained_run / "evaluation/validation/metrics.json")
    assert (metrics["step"], metrics["samples"]) == (32, 210)
    accuracies = logged(trained_run, "validation", "accuracy")
    assert metrics["accuracy"] == pytest.approx(accuracies[-1], abs=1e-6)


# predict.py


@pytest.fixture
def figures(tmp_path: Path) -> list[Path]:
    """One picture in many kinds and sizes of image files."""
    stripes = np.sin(np.arange(40) / 2).reshape(1, -1).repeat(30, 0)
    image = Image.fromarray((127 + 120 * stripes).astype(np.uint8))
    wide = Image.fromarray(np.array(image).astype(np.uint16) * 257)
    folder = tmp_path / "pictures"
    folder.mkdir()
    image.save(folder / "grey.png")
    image.resize((28, 28)).convert("RGBA").save(folder / "rgba.png")
    image.resize((300, 7)).convert("P").save(folder / "palette.gif")
    image.resize((1, 1)).convert("1").save(folder / "one bit.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    wide.save(folder / "16 bits.png")
    return sorted(folder.iterdir())


def test_images_of_any_kind_are_classified(
    trained_run: Path, pictures: list[Path], command: Command, capsys: Captured
) -> None:
    assert command("predict", trained_run, *pictures, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [entry["input"] for entry in result["inputs"]] == list(map(str, pictures))
    for entry in result["inputs"]:
        probabilities = [prediction["probability"] for prediction in entry["predictions"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert probabilities[0] >= 0.1
        assert sum(probabilities) <= 1 + 1e-6


def test_a_prediction_is_what_the_model_gives_for_the_image(
    trained_run: Path, pictures: list[Path], command: Command, capsys: Captured
) -> None:
    dataset = restore_trainer([trained_run / "checkpoints/best.pt"], None, [])[0].dataset
    batch = dataset.collate([dataset.read_inputs(str(file))[0][1] for file in pictures])
    shares = trained_model(trained_run)(dataset.transform(batch, None)["input"]).softmax(1)
    assert command("predict", trained_run, *pictures, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    for entry, share in zip(entries, shares, strict=True):
        first = entry["predictions"][0]
        assert first["class"] == dataset.classes[int(share.argmax())]
        assert first["probability"] == pytest.approx(share.max().item(), abs=0.01)


def test_a_file_that_is_no_image_is_named_and_the_others_are_classified(
    trained_run: Path, pictures: list[Path], tmp_path: Path, command: Command, capsys: Captured
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:60])
    files = [pictures[0], "notes.txt", "cut.png", "missing.png", pictures[1]]
    for options in ([], ["--json"]):
        assert command("predict", trained_run, *files, *options) == 2
        printed = capsys.readouterr()
        for name in ("notes.txt", "cut.png", "missing.png"):
            assert f"error: {name}" in printed.err
    entries = json.loads(printed.out)["inputs"]
    kinds = ["predictions" if "predictions" in entry else "error" for entry in entries]
    assert kinds == ["predictions", "error", "error", "error", "predictions"]


def test_an_input_that_does_not_fit_the_model_is_named_and_the_others_are_answered(
    trained_run: Path,
    pictures: list[Path],
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Synthetic.read_inputs

    def read(dataset: Synthetic, source: str) -> list[tuple[str, Sample]]:
        if source != "odd":
            return whole(dataset, source)
        return [("odd", {"input": torch.zeros(2, 28, 28, dtype=torch.uint8)})]

    monkeypatch.setattr(Synthetic, "read_inputs", read)
    assert command("predict", trained_run, "odd", pictures[0], "--json") == 2
    printed = capsys.readouterr()
    assert re.search(r"^error: odd: RuntimeError: .*, line \d+\)$", printed.err, re.MULTILINE)
    assert ["error" in entry for entry in json.loads(printed.out)["inputs"]] == [True, False]


def test_predictions_are_a_table_for_people(
    trained_run: Path, pictures: list[Path], command: Command, capsys: Captured
) -> None:
    assert command("predict", trained_run, *pictures) == 0
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "input"
    assert len(rows) == len(pictures)
    for row, file in zip(rows, pictures, strict=True):
        assert row.startswith(str(file))
        assert row.count("%") == 3


def test_a_long_answer_is_cut_in_the_table_and_whole_in_json(
    trained_run: Path,
    pictures: list[Path],
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = "".join(map(str, range(100)))
    monkeypatch.setattr(Classifier, "describe", lambda *_: [[{"text": long, "score": 1 / 3}]])
    assert command("predict", trained_run, pictures[0], "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["inputs"]
    assert entry["predictions"] == [{"text": long, "score": 1 / 3}]
    assert command("predict", trained_run, pictures[0]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.split()[-2:] == [long[:100], "0.333333"]


# export.py


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(7, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_a_pt2_file_computes_what_the_model_does(
    trained_run: Path, inputs: Tensor, command: Command
) -> None:
    assert command("export", trained_run) == 0
    about = {"about.json": ""}
    program = torch.export.load(trained_run / "export/model.pt2", extra_files=about).module()
    for batch in (inputs[:1], inputs):
        assert torch.allclose(program(batch), trained_model(trained_run)(batch), atol=1e-4)
    assert json.loads(about["about.json"])["data"]["title"] == "synthetic data"


def test_an_onnx_file_computes_what_the_model_does(
    trained_run: Path, inputs: Tensor, command: Command
) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert command("export", trained_run, "--format", "onnx") == 0
    file = trained_run / "export/model.onnx"
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(file)
    for batch in (inputs[:1], inputs):
        (found,) = session.run(None, {"input": batch.numpy()})
        wanted = trained_model(trained_run)(batch).detach().numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    about = json.loads(session.get_modelmeta().custom_metadata_map["about"])
    assert about["data"]["title"] == "synthetic data"


def test_a_safetensors_file_has_the_trained_weights(
    trained_run: Path, inputs: Tensor, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "elsewhere/weights.safetensors"
    assert command("export", trained_run, "--format", "safetensors", "--output", file) == 0
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    assert about["data"]["title"] == "synthetic data"
    model = trained_model(trained_run)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.load_state_dict(load_file(file))
    for batch in (inputs[:1], inputs):
        assert torch.equal(model.eval()(batch), trained_model(trained_run)(batch))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_there_must_be_a_trained_model(tmp_path: Path, command: Command, capsys: Captured) -> None:
    for arguments in (["evaluate", "nothing"], ["predict", "nothing", "x"], ["export", "nothing"]):
        assert command(*arguments) == 2
        assert "nothing does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Where the data is from


def test_a_run_folder_says_what_was_run_and_with_what(trained_run: Path) -> None:
    manifest = read_json(trained_run / "manifest.json")
    project = Path(__file__).parent.parent
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert manifest["template"] == about["tool"]["torch-template"]["version"]
    assert manifest["command"].startswith("train.py --config ")
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert manifest["data"]["samples"] == 790
    assert manifest["device"] == "cpu (float32)"
    settings = load_settings(trained_run / "settings.yaml")
    assert settings == load_settings(
        load_checkpoint(trained_run / "checkpoints/last.pt")["settings"]
    )
    assert settings.trainer.epochs == 2


def test_all_that_training_prints_and_saves_says_that_the_data_is_synthetic(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=17", "logger.tensorboard=true") == 0
    printed = capsys.readouterr().out
    assert "\nsynthetic data on cpu (float32)\n" in printed
    scores = [line for line in printed.splitlines() if "accuracy" in line]
    assert len(scores) == 2
    assert all(line.startswith("synthetic data: epoch ") for line in scores)

    header, *rows = read_table(run / "metrics.csv")
    assert header[0] == "data"
    assert {row[0] for row in rows} == {"synthetic data"}
    assert read_json(run / "manifest.json")["data"]["title"] == "synthetic data"
    assert "synthetic.Synthetic" in (run / "settings.yaml").read_text()
    assert load_checkpoint(run / "checkpoints/last.pt")["data"]["title"] == "synthetic data"
    assert any(b"synthetic data" in f.read_bytes() for f in (run / "tensorboard").iterdir())


def test_all_that_is_made_of_a_trained_model_says_that_the_data_is_synthetic(
    trained_run: Path, pictures: list[Path], evaluation: Path, command: Command, capsys: Captured
) -> None:
    assert read_json(evaluation / "metrics.json")["data"] == "synthetic data"
    for table in ("by_class.csv", "confusion_matrix.csv"):
        assert read_table(evaluation / table)[0][0].startswith("synthetic data")
    for arguments in (
        ["evaluate", trained_run, "--split", "validation"],
        ["predict", trained_run, pictures[0]],
        ["predict", trained_run, pictures[0], "--json"],
        ["export", trained_run, "--format", "safetensors"],
    ):
        assert command(*arguments) == 0
        assert "synthetic data" in capsys.readouterr().out

    trainer, _ = restore_trainer([trained_run / "checkpoints/best.pt"], "validation", [])
    figures = trainer.figures("validation", trainer.evaluate("validation"))
    assert figures.keys() == {"confusion_matrix", "misclassified"}
    for figure in figures.values():
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any(text.startswith("synthetic data: validation") for text in texts)
