"""evaluate.py, predict.py and export.py, and the name of the data in everything they write."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, needs
from matplotlib.text import Text
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from base.base_dataset import Sample
from base.base_model import BaseModel
from builders import build_trained_model, restore_dataset, restore_trainer
from config.loading import load_settings
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from storage.checkpoint_file import load_checkpoint
from storage.export_verification import verify
from trainer.classifier import Classifier
from utils.command import next_command

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def read_table(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def read_numbers(file: Path) -> Any:
    """The cells of a table without its first row and its first column, shape (rows, columns)."""
    rows = read_table(file)[1:]
    return np.array([row[1:] for row in rows]).astype(float)


def best_model(run: Path) -> BaseModel:
    """The best model of a run, in evaluation mode."""
    state = load_checkpoint(run / "checkpoints/best.pt")
    settings = load_settings(state["settings"])
    dataset = restore_dataset(settings, None, state)
    return build_trained_model(settings, dataset, state).eval()


# evaluate.py


@pytest.fixture(scope="module")
def evaluation(trained_run: Path, command: Command) -> Path:
    """The folder with the results of the test split."""
    assert command("evaluate", trained_run) == 0
    return trained_run / "evaluation/test"


def test_the_saved_results_agree_with_each_other(evaluation: Path) -> None:
    metrics = read_json(evaluation / "metrics.json")
    counts = read_numbers(evaluation / "confusion_matrix.csv")
    samples, precision, recall, f1 = read_numbers(evaluation / "by_class.csv").T
    correct = counts.diagonal()
    support = counts.sum(1)
    predicted = counts.sum(0)

    assert counts.sum() == metrics["samples"] == 303
    assert metrics["accuracy"] == pytest.approx(correct.sum() / 303, abs=1e-5)
    assert metrics["f1"] == pytest.approx(f1.mean(), abs=1e-4)
    assert samples.tolist() == support.tolist()
    assert recall == pytest.approx(correct / support, abs=1e-4)
    assert precision == pytest.approx(correct / predicted.clip(1), abs=1e-4)
    assert f1 == pytest.approx(2 * correct / (support + predicted), abs=1e-4)


def test_the_results_are_those_of_the_best_model_on_the_test_images(
    trained_run: Path, evaluation: Path
) -> None:
    metrics = read_json(evaluation / "metrics.json")
    assert metrics["step"] == 16  # the last checkpoint has step 32
    trainer, _ = restore_trainer([trained_run / "checkpoints/best.pt"], "test", [])
    dataset = trainer.dataset
    batch = dataset.transform(dataset.__getitems__(torch.arange(303)), None)
    predicted = best_model(trained_run)(batch["input"]).argmax(1)
    expected = np.zeros((10, 10))
    for target, prediction in zip(batch["target"], predicted, strict=True):
        expected[target, prediction] += 1
    counts = read_numbers(evaluation / "confusion_matrix.csv")
    assert counts.tolist() == expected.tolist()


def test_another_seed_than_that_of_the_run_is_reported(trained_run: Path, caplog: Any) -> None:
    for seed, is_reported in ((0, False), (7, True)):
        caplog.clear()
        restore_trainer([trained_run / "checkpoints/best.pt"], "test", [f"seed={seed}"])
        assert (f"seed = {seed}: " in caplog.text) == is_reported


@pytest.mark.parametrize("name", ["confusion_matrix.png", "misclassified.png"])
def test_figures_of_the_results_are_saved(evaluation: Path, name: str) -> None:
    with Image.open(evaluation / name) as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.min() < 64
    assert pixels.max() == 255


def test_the_worst_samples_of_the_whole_split_are_listed_and_drawn(
    trained_run: Path, evaluation: Path
) -> None:
    trainer, _ = restore_trainer([trained_run / "checkpoints/best.pt"], "test", [])
    dataset = trainer.dataset
    batch = dataset.transform(dataset.__getitems__(torch.arange(303)), None)
    probabilities = best_model(trained_run)(batch["input"]).softmax(1).detach()
    true = probabilities[torch.arange(303), batch["target"]]
    highest, predicted = probabilities.max(1)
    wrong = (predicted != batch["target"]).nonzero().squeeze(1)
    worst = wrong[true[wrong].argsort()][:25].tolist()
    assert len(worst) == 25

    rows = read_table(evaluation / "misclassified.csv")[1:]
    assert [row[0] for row in rows] == [f"sample {index}" for index in worst]
    assert [row[2] for row in rows] == [dataset.classes[predicted[index]] for index in worst]
    shown = np.array([row[3:] for row in rows]).astype(float)
    assert shown[:, 0] == pytest.approx(highest[worst].numpy(), abs=1e-3)
    assert shown[:, 1] == pytest.approx(true[worst].numpy(), abs=1e-3)

    figure = trainer.figures("test", trainer.evaluate("test"))["misclassified"]
    titles = [text.get_text() for text in figure.findobj(Text) if "\nas " in text.get_text()]
    assert [title.splitlines()[0] for title in titles] == [row[0] for row in rows]
    assert titles[0].endswith(f"{highest[worst[0]]:.0%}")


def test_files_of_an_earlier_evaluation_are_deleted(
    trained_run: Path, tmp_path: Path, command: Command
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    folder = run / "evaluation/validation"
    assert command("evaluate", run, "--split", "validation") == 0
    (folder / "mine.png").touch()
    content = read_json(folder / "metrics.json")
    (folder / "outdated.csv").touch()
    (folder / "metrics.json").write_text(json.dumps({**content, "files": ["outdated.csv"]}))
    assert command("evaluate", run, "--split", "validation") == 0
    assert (folder / "mine.png").exists()
    assert not (folder / "outdated.csv").exists()
    assert read_json(folder / "metrics.json") == content


def test_samples_that_have_changed_since_the_last_evaluation_are_reported(
    trained_run: Path, tmp_path: Path, command: Command, monkeypatch: Any, caplog: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for size, is_reported in ((303, False), (303, False), (304, True), (304, False)):
        monkeypatch.setattr(synthetic, "TEST", size)
        caplog.clear()
        assert command("evaluate", run) == 0
        assert ("synthetic data: the samples have changed" in caplog.text) == is_reported


def test_a_test_sample_that_has_changed_since_training_is_reported(
    trained_run: Path, tmp_path: Path, command: Command, monkeypatch: Any, caplog: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    assert read_json(run / "manifest.json")["test"]["samples"] == 303
    original = Synthetic.__getitem__

    def with_another_pixel(dataset: Synthetic, index: int) -> Sample:
        sample = original(dataset, index)
        if len(dataset) == 303 and index == 302:
            sample["input"] = sample["input"].clone()
            sample["input"][0, 0, 0] ^= 1
        return sample

    for is_changed in (False, True):
        if is_changed:
            monkeypatch.setattr(Synthetic, "__getitem__", with_another_pixel)
        caplog.clear()
        assert command("evaluate", run) == 0
        assert ("the test split has changed since training" in caplog.text) == is_changed
        assert command("evaluate", run, "--split", "validation") == 0
        assert caplog.text.count("since training") == is_changed


def test_a_data_set_without_a_test_split_is_trained(
    tmp_path: Path, train: Command, monkeypatch: Any, capsys: Captured
) -> None:
    original = Synthetic.__init__

    def refuse(dataset: Synthetic, root: Path, split: str | None, seed: int) -> None:
        if split == "test":
            raise ValueError("there is no test split")
        original(dataset, root, split, seed)

    monkeypatch.setattr(Synthetic, "__init__", refuse)
    assert train(tmp_path / "run", "trainer.max_steps=1") == 0
    assert "test" not in read_json(tmp_path / "run/manifest.json")
    assert "there is no test split" not in capsys.readouterr().out


def test_any_split_can_be_evaluated_with_any_checkpoint(
    trained_run: Path, command: Command, logged: Callable[..., list[float]]
) -> None:
    last = trained_run / "checkpoints/last.pt"
    assert command("evaluate", last, "--split", "validation", "data.batch_size=13") == 0
    metrics = read_json(trained_run / "evaluation/validation/metrics.json")
    assert metrics["step"] == 32
    assert metrics["samples"] == 210
    accuracies = logged(trained_run, "validation", "accuracy")
    assert metrics["accuracy"] == pytest.approx(accuracies[-1], abs=1e-6)


# predict.py


@pytest.fixture
def image_files(tmp_path: Path) -> list[Path]:
    """One image in several modes, sizes and file formats."""
    stripes = np.sin(np.arange(40) / 2).reshape(1, -1).repeat(30, 0)
    image = Image.fromarray((127 + 120 * stripes).astype(np.uint8))
    image_16_bits = Image.fromarray(np.array(image).astype(np.uint16) * 257)
    folder = tmp_path / "images"
    folder.mkdir()
    image.save(folder / "grey.png")
    image.resize((28, 28)).convert("RGBA").save(folder / "rgba.png")
    image.resize((300, 7)).convert("P").save(folder / "palette.gif")
    image.resize((1, 1)).convert("1").save(folder / "one bit.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image_16_bits.save(folder / "16 bits.png")
    return sorted(folder.iterdir())


def test_images_of_any_kind_are_classified(
    trained_run: Path, image_files: list[Path], command: Command, capsys: Captured
) -> None:
    assert command("predict", trained_run, *image_files, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    assert [entry["input"] for entry in entries] == [str(file) for file in image_files]
    for entry in entries:
        probabilities = [prediction["probability"] for prediction in entry["predictions"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert probabilities[0] >= 0.1
        assert sum(probabilities) <= 1 + 1e-6


def test_a_prediction_equals_the_output_of_the_model(
    trained_run: Path, image_files: list[Path], command: Command, capsys: Captured
) -> None:
    trainer, _ = restore_trainer([trained_run / "checkpoints/best.pt"], None, [])
    dataset = trainer.dataset
    samples = []
    for file in image_files:
        ((_, sample),) = dataset.read_inputs(str(file))
        samples.append(sample)
    batch = dataset.transform(dataset.collate(samples), None)
    expected = best_model(trained_run)(batch["input"]).softmax(1)
    assert command("predict", trained_run, *image_files, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    for entry, probabilities in zip(entries, expected, strict=True):
        first = entry["predictions"][0]
        assert first["class"] == dataset.classes[int(probabilities.argmax())]
        assert first["probability"] == pytest.approx(probabilities.max().item(), abs=0.01)


def test_unreadable_inputs_are_reported_and_all_others_are_classified(
    trained_run: Path, image_files: list[Path], tmp_path: Path, command: Command, capsys: Captured
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "truncated.png").write_bytes(image_files[0].read_bytes()[:60])
    files = [image_files[0], "notes.txt", "truncated.png", "missing.png", image_files[1]]
    for options in ([], ["--json"]):
        assert command("predict", trained_run, *files, *options) == 2
        printed = capsys.readouterr()
        for name in ("notes.txt", "truncated.png", "missing.png"):
            assert f"error: {name}" in printed.err
    entries = json.loads(printed.out)["inputs"]
    assert ["predictions" in entry for entry in entries] == [True, False, False, False, True]
    assert ["error" in entry for entry in entries] == [False, True, True, True, False]


def test_folders_and_patterns_name_their_visible_files(
    trained_run: Path, image_files: list[Path], command: Command, capsys: Captured
) -> None:
    image = image_files[0].read_bytes()
    for name in ("b/2.PNG", "b/1.png", "b/.hidden.png", "b/c/3.png", "b/.d/4.png", "a[1].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(image)
    Path("b/notes.txt").touch()
    for arguments, expected in {
        ("b",): ["b/1.png", "b/2.PNG"],
        ("b/", "a[1].png"): ["b/1.png", "b/2.PNG", "a[1].png"],
        ("b/*.png",): ["b/1.png"],
        ("b/**/*.png",): ["b/1.png", "b/c/3.png"],
        ("b/c/*",): ["b/c/3.png"],
    }.items():
        assert command("predict", trained_run, *arguments, "--json") == 0
        printed = capsys.readouterr()
        assert [entry["input"] for entry in json.loads(printed.out)["inputs"]] == expected
        assert ("left out 1 files" in printed.err) == (arguments[0] in ("b", "b/"))


def test_a_folder_or_pattern_without_inputs_is_an_error(
    trained_run: Path, image_files: list[Path], command: Command, capsys: Captured
) -> None:
    Path("texts/inner").mkdir(parents=True)
    Path("texts/notes.txt").touch()
    for argument in ("texts", "texts/*.png"):
        assert command("predict", trained_run, argument, image_files[0], "--json") == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"error: {argument}")
        assert len(json.loads(printed.out)["inputs"]) == 2


@pytest.mark.parametrize("argument", ["", " "])
def test_an_empty_input_is_an_error(
    trained_run: Path, command: Command, capsys: Captured, argument: str
) -> None:
    assert command("predict", trained_run, argument) == 2
    assert "an input is empty" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_read(
    trained_run: Path, image_files: list[Path], command: Command, capsys: Captured
) -> None:
    os.mkfifo("pipe")
    assert command("predict", trained_run, "pipe", image_files[0], "--json") == 2
    printed = capsys.readouterr()
    for part in ("error: pipe", "regular file"):
        assert part in printed.err
    assert len(json.loads(printed.out)["inputs"]) == 2


def test_an_input_of_another_shape_is_reported_and_all_others_are_classified(
    trained_run: Path,
    image_files: list[Path],
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Synthetic.read_inputs

    def read_inputs(dataset: Synthetic, source: str) -> list[tuple[str, Sample]]:
        if source != "odd":
            return original(dataset, source)
        return [("odd", {"input": torch.zeros(2, 28, 28, dtype=torch.uint8)})]

    monkeypatch.setattr(Synthetic, "read_inputs", read_inputs)
    assert command("predict", trained_run, "odd", image_files[0], "--json") == 2
    printed = capsys.readouterr()
    assert re.search(r"^error: odd: RuntimeError: .*, line \d+\)$", printed.err, re.MULTILINE)
    entries = json.loads(printed.out)["inputs"]
    assert ["error" in entry for entry in entries] == [True, False]


def test_predictions_are_printed_as_a_table(
    trained_run: Path, image_files: list[Path], command: Command, capsys: Captured
) -> None:
    assert command("predict", trained_run, *image_files) == 0
    header, _, *rows, empty, checkpoint, last_line = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "input"
    assert (empty, last_line) == ("", f"export: python export.py {trained_run}")
    assert checkpoint == f"checkpoint: {trained_run / 'checkpoints/best.pt'}"
    assert len(rows) == len(image_files)
    for row, file in zip(rows, image_files, strict=True):
        assert row.startswith(str(file))
        assert row.count("%") == 3


def test_a_long_prediction_is_truncated_in_the_table_and_complete_in_json(
    trained_run: Path,
    image_files: list[Path],
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long_text = "0123456789" * 20
    prediction = {"text": long_text, "score": 1 / 3}
    monkeypatch.setattr(Classifier, "describe", lambda *_: [[prediction]])
    assert command("predict", trained_run, image_files[0], "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["inputs"]
    assert entry["predictions"] == [prediction]
    assert command("predict", trained_run, image_files[0]) == 0
    _, _, row, *_ = capsys.readouterr().out.splitlines()
    assert row.split()[-2:] == [long_text[:100], "0.333333"]


# export.py


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(7, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_a_pt2_file_computes_the_outputs_of_the_model(
    trained_run: Path, inputs: Tensor, command: Command
) -> None:
    assert command("export", trained_run) == 0
    extra_files = {"about.json": ""}
    file = trained_run / "export/model.pt2"
    program = torch.export.load(file, extra_files=extra_files).module()
    for batch in (inputs[:1], inputs):
        assert torch.allclose(program(batch), best_model(trained_run)(batch), atol=1e-4)
    about = json.loads(extra_files["about.json"])
    assert about["data"]["title"] == "synthetic data"


def test_an_onnx_file_computes_the_outputs_of_the_model(
    trained_run: Path, inputs: Tensor, command: Command
) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert command("export", trained_run, "--format", "onnx") == 0
    file = trained_run / "export/model.onnx"
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(file)
    for batch in (inputs[:1], inputs):
        (outputs,) = session.run(None, {"input": batch.numpy()})
        expected = best_model(trained_run)(batch).detach().numpy()
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
    about = json.loads(session.get_modelmeta().custom_metadata_map["about"])
    assert about["data"]["title"] == "synthetic data"


def test_a_safetensors_file_contains_the_trained_weights(
    trained_run: Path, inputs: Tensor, command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "elsewhere/weights.safetensors"
    assert command("export", trained_run, "--format", "safetensors", "--output", file) == 0
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    assert about["data"]["title"] == "synthetic data"
    model = best_model(trained_run)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.load_state_dict(load_file(file))
    for batch in (inputs[:1], inputs):
        assert torch.equal(model(batch), best_model(trained_run)(batch))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "arguments", [["evaluate", "nothing"], ["predict", "nothing", "x"], ["export", "nothing"]]
)
def test_a_missing_run_is_an_error(
    tmp_path: Path, command: Command, capsys: Captured, arguments: list[str]
) -> None:
    assert command(*arguments) == 2
    assert "nothing does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The manifest, and the name of the data in everything that is written


def test_the_manifest_states_command_versions_data_and_device(trained_run: Path) -> None:
    manifest = read_json(trained_run / "manifest.json")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert manifest["template"] == project["tool"]["torch-template"]["version"]
    assert manifest["command"].startswith("train.py --config ")
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert manifest["data"]["samples"] == 790
    assert manifest["device"] == "cpu (float32)"


def test_the_settings_file_equals_the_settings_in_the_checkpoint(trained_run: Path) -> None:
    settings = load_settings(trained_run / "settings.yaml")
    state = load_checkpoint(trained_run / "checkpoints/last.pt")
    assert settings == load_settings(state["settings"])
    assert settings.trainer.epochs == 2


@pytest.mark.parametrize("name", ["my run", "it's $HOME `x`", "-x", "größe; ls"])
def test_the_last_line_is_the_next_command_as_a_shell_needs_it(
    tmp_path: Path, train: Command, command: Command, capsys: Captured, name: str
) -> None:
    assert train(Path(name), "trainer.max_steps=1") == 0
    label, _, line = capsys.readouterr().out.splitlines()[-1].partition(": ")
    words = shlex.split(line)
    assert label == "evaluate"
    assert words[:2] == ["python", "evaluate.py"]
    assert command("evaluate", *words[2:]) == 0
    assert (tmp_path / name / "evaluation/test/metrics.json").exists()
    label, _, line = capsys.readouterr().out.splitlines()[-1].partition(": ")
    assert (label, shlex.split(line)) == ("export", ["python", "export.py", words[2]])


def test_the_next_command_is_in_the_folder_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py")])
    assert shlex.split(next_command("evaluate.py", "last")) == [
        "python",
        str(ROOT / "evaluate.py"),
        "last",
    ]


@pytest.mark.parametrize(
    ("processes", "launcher"),
    [
        (2, "torchrun --standalone --nproc-per-node=2"),
        (
            4,
            "torchrun --nnodes=2 --nproc-per-node=2 --rdzv-backend=c10d "
            "--rdzv-endpoint=first:29500 --rdzv-id=job",
        ),
    ],
)
def test_a_run_of_several_processes_is_continued_by_as_many(
    monkeypatch: pytest.MonkeyPatch, processes: int, launcher: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("MASTER_ADDR", "first")
    assert next_command("train.py", "--resume", "a b") == f"{launcher} train.py --resume 'a b'"
    assert next_command("evaluate.py", "run") == f"{launcher} evaluate.py run"
    assert next_command("export.py", "run") == "python export.py run"


# The module that each command imports first, except for those of Python.
FIRST_IMPORTS = {
    "train.py": "pydantic",
    "evaluate.py": "pydantic",
    "preview.py": "pydantic",
    "predict.py": "filelock",
    "export.py": "filelock",
    "compare.py": "filelock",
    "config/__main__.py": "pydantic",
    "data_loader/convert.py": "numpy",
}


@pytest.mark.parametrize(
    "script", [pytest.param(script, marks=needs(ROOT / script)) for script in FIRST_IMPORTS]
)
def test_ctrl_c_during_the_imports_gives_no_traceback(tmp_path: Path, script: str) -> None:
    """A package that raises the signal stands in for one that takes long to import."""
    package = tmp_path / f"{FIRST_IMPORTS[script]}.py"
    package.write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    result = subprocess.run(
        [sys.executable, ROOT / script],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout + result.stderr == ""
    assert result.returncode == -signal.SIGINT  # a shell reports 130


FULL_DEVICE = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@FULL_DEVICE
def test_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "config"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 2
    assert result.stderr == "error: the output cannot be written: No space left on device\n"


def test_an_interrupted_evaluation_leaves_the_earlier_one_as_it_was(
    trained_run: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    assert command("evaluate", run) == 0
    folder = run / "evaluation/test"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evaluation.results.save_figure", interrupt)
    assert command("evaluate", run / "checkpoints/last.pt") == 130
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_export_leaves_no_file_and_prints_no_error(
    trained_run: Path,
    tmp_path: Path,
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    def interrupt(*arguments: Any) -> float:
        assert list(tmp_path.iterdir())  # the file is being verified
        signal.raise_signal(number)
        return verify(*arguments)

    monkeypatch.setattr("storage.export.verify", interrupt)
    assert command("export", trained_run, "--output", tmp_path / "model.pt2") == 128 + number
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def test_all_output_of_training_names_the_data(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=17", "logger.tensorboard=true") == 0
    printed = capsys.readouterr().out
    assert "\nsynthetic data on cpu (float32)\n" in printed
    results = [line for line in printed.splitlines() if "accuracy" in line]
    assert len(results) == 3  # two validations and the best value
    for line in results:
        assert line.startswith("synthetic data: ")

    header, *rows = read_table(run / "metrics.csv")
    assert header[0] == "data"
    assert {row[0] for row in rows} == {"synthetic data"}
    assert read_json(run / "manifest.json")["data"]["title"] == "synthetic data"
    assert "synthetic.Synthetic" in (run / "settings.yaml").read_text()
    assert load_checkpoint(run / "checkpoints/last.pt")["data"]["title"] == "synthetic data"
    event_files = list((run / "tensorboard").iterdir())
    assert any(b"synthetic data" in file.read_bytes() for file in event_files)


def test_all_output_of_the_other_commands_names_the_data(
    trained_run: Path, image_files: list[Path], evaluation: Path, command: Command, capsys: Captured
) -> None:
    assert read_json(evaluation / "metrics.json")["data"] == "synthetic data"
    for name in ("by_class.csv", "confusion_matrix.csv"):
        header = read_table(evaluation / name)[0]
        assert header[0].startswith("synthetic data")
    for arguments in (
        ["evaluate", trained_run, "--split", "validation"],
        ["predict", trained_run, image_files[0]],
        ["predict", trained_run, image_files[0], "--json"],
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
