"""export.py, with the kinds of models that a project may have."""
# ruff: noqa: D103  the names of the tests say what they test

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from exported import prepare_image, read_about, run_outside
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import predict
from base.base_dataset import Batch
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from builders import restore_trainer
from data_loader.synthetic import Synthetic
from export import print_axes
from model import networks
from storage.checkpoint_file import load_checkpoint, save_checkpoint
from storage.example_inputs import ExampleInputs, resolve_inputs, to_plain_data
from storage.export import Exported, export_model, export_weights
from storage.export_description import without_local_paths
from trainer import classifier
from trainer.classifier import Classifier
from utils.errors import UserError, first_line
from utils.outputs import answers_by_sample

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
Program = Callable[[Mapping[str, Tensor]], list[Tensor]]
WORDS = 11


def words(count: int, length: int) -> Tensor:
    return torch.randint(WORDS, (count, length), generator=torch.Generator().manual_seed(0))


def export(model: nn.Module, example: Any, file: Path) -> Exported:
    """Exports a model in the format that the name of the file implies."""
    inputs = resolve_inputs(to_plain_data(example, "example_inputs") or {}, model, "example_inputs")
    return export_model(model.eval(), inputs, file.suffix[1:], file, {})


def load_program(file: Path, exported: Exported) -> Program:
    """The exported file as a function from inputs by name to the list of its outputs."""
    if file.suffix == ".pt2":
        program = torch.export.load(file).module()

        def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
            positional = []
            keywords = {}
            for entry in exported.about["inputs"]:
                if entry["passed_by"] == "keyword":
                    keywords[entry["name"]] = inputs[entry["name"]]
                else:
                    positional.append(inputs[entry["name"]])
            return torch.utils._pytree.tree_leaves(program(*positional, **keywords))

        return run
    session = pytest.importorskip("onnxruntime").InferenceSession(file)

    def run_onnx(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        arrays = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return [torch.from_numpy(array) for array in arrays]

    return run_onnx


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def shapes_of(exported: Exported, part: str = "inputs") -> dict[str, list[Any]]:
    return {entry["name"]: entry["shape"] for entry in exported.about[part]}


def refused(call: Callable[..., Any], *arguments: Any, folder: Path) -> str:
    """The message of the error, of one or two lines, that a call raises without leaving a file."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert error.value.exit_code == 2
    assert len(str(error.value).splitlines()) <= 2
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    return str(error.value)


@pytest.fixture(params=["pt2", "onnx"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    path: Path = tmp_path / f"out/model.{request.param}"
    return path


# Inputs and outputs


class TwoInputs(nn.Module):
    """An image and a sentence; several outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Linear(12, 4)
        self.words = nn.Embedding(WORDS, 4)

    def forward(self, image: Tensor, tokens: Tensor, scale: float = 2.0) -> dict[str, Any]:
        features = self.pixels(image.flatten(1)) + self.words(tokens).mean(1)
        return {"logits": features * scale, "parts": (features.amax(1), tokens + 1)}


def test_inputs_and_outputs_have_the_names_of_parameters_and_keys(file: Path) -> None:
    model = TwoInputs()
    exported = export(model, {"tokens": words(1, 5), "image": torch.zeros(1, 3, 4)}, file)
    length = "tokens_axis_1"
    assert shapes_of(exported) == {"image": ["batch", 3, 4], "tokens": ["batch", length]}
    assert shapes_of(exported, "outputs") == {
        "logits": ["batch", 4],
        "parts_0": ["batch"],
        "parts_1": ["batch", length],
    }
    assert [entry["dtype"] for entry in exported.about["inputs"]] == ["float32", "int64"]
    program = load_program(file, exported)
    image = torch.randn(3, 3, 4)
    outputs = model(image, words(3, 7))
    found = program({"image": image, "tokens": words(3, 7)})
    assert_close(found, [outputs["logits"], *outputs["parts"]])


def test_a_pt2_file_is_called_like_the_model(tmp_path: Path) -> None:
    model = TwoInputs()
    image = torch.randn(2, 3, 4)
    tokens = words(2, 5)
    expected = model(image, tokens)["logits"]
    export(model, (torch.zeros(1, 3, 4), words(1, 5)), tmp_path / "tuple.pt2")
    program = torch.export.load(tmp_path / "tuple.pt2").module()
    torch.testing.assert_close(program(image, tokens)["logits"], expected)
    example = {"image": torch.zeros(1, 3, 4), "tokens": words(1, 5)}
    export(model, example, tmp_path / "dict.pt2")
    program = torch.export.load(tmp_path / "dict.pt2").module()
    torch.testing.assert_close(program(image=image, tokens=tokens)["logits"], expected)


@dataclass
class Detection:
    """Outputs that a program without the project does not know."""

    boxes: Tensor
    score: Tensor
    loss: Tensor | None = None


class Detector(nn.Module):
    """Returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 8)

    def forward(self, input: Tensor) -> Detection:
        features = self.head(input)
        return Detection(features.reshape(-1, 2, 4), features.sigmoid().amax(1))


def test_a_dataclass_becomes_a_dict_without_its_empty_fields(file: Path) -> None:
    model = Detector()
    exported = export(model, torch.zeros(1, 6), file)
    assert shapes_of(exported, "outputs") == {"boxes": ["batch", 2, 4], "score": ["batch"]}
    inputs = torch.randn(4, 6)
    outputs = model(inputs)
    found = load_program(file, exported)({"input": inputs})
    assert_close(found, [outputs.boxes, outputs.score])


def test_keywords_and_repeated_outputs_are_exported(file: Path) -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, **batch: Tensor) -> Any:
            features = self.head(batch["left"]) + batch["right"]
            return Detection(features, features, batch["left"])

    model = Keywords()
    exported = export(model, {"right": torch.zeros(1, 3), "left": torch.zeros(1, 4)}, file)
    inputs = {"right": torch.randn(2, 3), "left": torch.randn(2, 4)}
    outputs = model(**inputs)
    found = load_program(file, exported)(inputs)
    assert_close(found, [outputs.boxes, outputs.score, outputs.loss])


class Step(nn.Module):
    """One step of a generator: an input and a hidden state, whose axis 1 is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)

    def forward(self, input: Tensor, hidden: Tensor, cell: Tensor) -> Any:
        output, (hidden, cell) = self.lstm(input, (hidden, cell))
        return {"output": output, "hidden": hidden, "cell": cell}


def test_a_step_with_a_hidden_state_has_its_batch_at_another_axis(file: Path) -> None:
    model = Step()
    state = torch.zeros(2, 1, 4)
    batch = {1: "batch"}
    example = ExampleInputs(
        (torch.zeros(1, 1, 3), state, state), dynamic={"hidden": batch, "cell": batch}
    )
    exported = export(model, example, file)
    assert shapes_of(exported)["hidden"] == [2, "batch", 4]
    program = load_program(file, exported)
    inputs = {
        "input": torch.randn(3, 1, 3),
        "hidden": torch.randn(2, 3, 4),
        "cell": torch.randn(2, 3, 4),
    }
    first = program(inputs)
    assert_close(first, [*model(**inputs).values()])
    inputs |= {"hidden": first[1], "cell": first[2]}
    assert_close(program(inputs), [*model(**inputs).values()])
    if file.suffix == ".onnx":  # where no two tensors may have the same name
        assert {*shapes_of(exported, "outputs")} == {"output", "hidden_out", "cell_out"}


def test_an_undeclared_batch_axis_is_an_error_that_shows_how_to_declare_it(tmp_path: Path) -> None:
    state = torch.zeros(2, 1, 4)
    example = (torch.zeros(1, 1, 3), state, state)
    message = refused(export, Step(), example, tmp_path / "m.pt2", folder=tmp_path)
    assert "hidden" in message
    assert "dynamic={'hidden': {1: 'batch'}}" in message


def test_inputs_that_do_not_fit_forward_are_errors_that_name_them(tmp_path: Path) -> None:
    image = torch.zeros(1, 3, 4)
    for example, parts in (
        ({"picture": image}, ["TwoInputs.forward(image", "picture"]),
        ((image, words(1, 5), image, image), ["TwoInputs.forward(image"]),
        (ExampleInputs((image, words(1, 5)), {"words": {1: "length"}}), ["'words'", "tokens"]),
        (ExampleInputs((image, words(1, 5)), {"tokens": {2: "length"}}), ["'length'", "2 axes"]),
        ([image, "text"], ["example_inputs", "str"]),
    ):
        message = refused(export, TwoInputs(), example, tmp_path / "m.pt2", folder=tmp_path)
        assert all(part in message for part in parts), message


# Axes


class Sentences(nn.Module):
    """Classifies sentences of any length, or up to `longest`."""

    def __init__(self, longest: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.positions = None if longest is None else nn.Embedding(longest, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        features = self.words(tokens)
        if self.positions is not None:
            features = features + self.positions.weight[: tokens.shape[1]]
        features = self.layer(features, src_key_padding_mask=padding)
        logits: Tensor = self.head(features.mean(1))
        return logits


def sentence_inputs(count: int, length: int) -> dict[str, Tensor]:
    padding = torch.zeros(count, length, dtype=torch.bool)
    return {"tokens": words(count, length), "padding": padding}


@pytest.mark.parametrize("is_declared", [True, False])
def test_sequences_of_any_length_are_taken(file: Path, is_declared: bool) -> None:
    model = Sentences()
    example = ExampleInputs(sentence_inputs(1, 6))
    name = "tokens_axis_1"
    if is_declared:
        name = "length"
        axes = {"tokens": {-1: "length"}, "padding": {1: "length"}}
        example = ExampleInputs(example.inputs, axes)
    exported = export(model, example, file)
    assert shapes_of(exported) == {"tokens": ["batch", name], "padding": ["batch", name]}
    assert {4, 5, 6, 7} & {*exported.about["axes"][name]["verified_sizes"]}
    program = load_program(file, exported)
    for count, length in ((1, 6), (3, 2), (2, 30)):
        inputs = sentence_inputs(count, length)
        assert_close(program(inputs), [model(**inputs)])
    if file.suffix == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file)
        assert [entry.shape for entry in session.get_inputs()] == [["batch", name]] * 2


def test_a_limit_of_the_length_is_stated(tmp_path: Path) -> None:
    exported = export(Sentences(longest=9), sentence_inputs(1, 6), tmp_path / "m.pt2")
    assert exported.about["axes"]["tokens_axis_1"]["max"] == 9


class CausalLanguageModel(nn.Module):
    """Predicts each word from the words before it, of at most nine."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.positions = nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.register_buffer("mask", torch.full((9, 9), -torch.inf).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        features = self.words(tokens) + self.positions(torch.arange(length))
        return self.layer(features, self.mask[:length, :length], is_causal=True)


@pytest.mark.parametrize("is_declared", [True, False])
def test_an_example_of_the_largest_size_does_not_fix_the_length(
    file: Path, is_declared: bool
) -> None:
    model = CausalLanguageModel()
    example = ExampleInputs(words(1, 9))
    name = "tokens_axis_1"
    if is_declared:
        name = "length"
        example = ExampleInputs(words(1, 9), {"tokens": {1: name}})
    exported = export(model, example, file)
    assert shapes_of(exported) == {"tokens": ["batch", name]}
    program = load_program(file, exported)
    for length in (3, 9):
        assert_close(program({"tokens": words(2, length)}), [model(words(2, length))])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_take_sequences_of_any_length(file: Path, kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS, 4)
            self.layers = kind(4, 5, num_layers=2, bidirectional=True, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            outputs: Tensor = self.layers(self.words(tokens))[0]
            return outputs.mean(1)

    model = Recurrent()
    exported = export(model, words(1, 6), file)
    program = load_program(file, exported)
    for count, length in ((1, 1), (2, 11)):
        assert_close(program({"tokens": words(count, length)}), [model(words(count, length))])


class Loop(nn.Module):
    """A Python loop over the words, which exporters unroll."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4)
        self.cell = nn.GRUCell(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        state = torch.zeros(len(tokens), 4)
        for position in range(tokens.shape[1]):
            state = self.cell(self.words(tokens[:, position]), state)
        return state


def test_an_axis_that_only_the_model_can_change_is_fixed_and_the_reason_is_stated(
    file: Path,
) -> None:
    model = Loop()
    exported = export(model, words(1, 5), file)
    assert shapes_of(exported) == {"tokens": ["batch", 5]}
    (fixed,) = exported.about["fixed_axes"]
    assert (fixed["input"], fixed["axis"], fixed["size"]) == ("tokens", 1, 5)
    assert "loop" in fixed["reason"]
    assert_close(load_program(file, exported)({"tokens": words(3, 5)}), [model(words(3, 5))])


def test_a_declared_axis_that_cannot_change_is_an_error_that_names_it(tmp_path: Path) -> None:
    example = ExampleInputs({"tokens": words(1, 5)}, {"tokens": {1: "length"}})
    message = refused(export, Loop(), example, tmp_path / "m.pt2", folder=tmp_path)
    assert "'length'" in message
    example = ExampleInputs(torch.zeros(1, 1, 8, 8), {"input": {2: "height"}})
    message = refused(export, one_size_network(), example, tmp_path / "m.pt2", folder=tmp_path)
    assert "'height'" in message
    assert "size 8" in message


def any_size_network() -> nn.Sequential:
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3))


def one_size_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))


def test_images_of_any_size_are_taken(file: Path) -> None:
    model = any_size_network()
    exported = export(model, torch.zeros(1, 1, 8, 8), file)
    assert shapes_of(exported) == {"input": ["batch", 1, "input_axis_2", "input_axis_3"]}
    images = torch.randn(2, 1, 17, 40)
    assert_close(load_program(file, exported)({"input": images}), [model(images)])


def test_a_network_for_one_image_size_says_which(file: Path) -> None:
    exported = export(one_size_network(), torch.zeros(1, 1, 8, 8), file)
    assert shapes_of(exported) == {"input": ["batch", 1, 8, 8]}
    fixed = [(entry["axis"], entry["size"]) for entry in exported.about["fixed_axes"]]
    assert fixed == [(1, 1), (2, 8), (3, 8)]
    with pytest.raises(Exception, match="8"):
        load_program(file, exported)({"input": torch.randn(1, 1, 4, 16)})


class Strided(nn.Module):
    """Two strided convolutions, then a linear layer over all positions or over their mean."""

    def __init__(self, positions: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 4, 3, 2, 1)
        self.second = nn.Conv1d(4, 4, 3, 2, 1)
        self.is_flat = positions is not None
        self.head = nn.Linear(4 * (positions or 1), 3)

    def forward(self, signal: Tensor) -> Tensor:
        features = self.second(self.first(signal))
        if self.is_flat:
            features = features.flatten(1)
        else:
            features = features.mean(2)
        logits: Tensor = self.head(features)
        return logits


def test_an_axis_of_which_a_model_only_takes_neighbouring_sizes_is_fixed(
    file: Path, capsys: Captured
) -> None:
    model = Strided(positions=16)
    assert model(torch.zeros(1, 1, 61)).shape == model(torch.zeros(1, 1, 64)).shape
    exported = export(model, torch.zeros(1, 1, 63), file)
    assert shapes_of(exported) == {"signal": ["batch", 1, 63]}
    reasons = {entry["axis"]: entry["reason"] for entry in exported.about["fixed_axes"]}
    assert "only takes 62, 63, 64" in reasons[2]
    assert [*exported.about["axes"]] == ["batch"]
    print_axes(exported.about)
    printed = capsys.readouterr().out
    assert "axis 2 of signal: fixed at 63" in printed
    signal = torch.randn(3, 1, 63)
    assert_close(load_program(file, exported)({"signal": signal}), [model(signal)])


def test_the_sizes_of_a_variable_axis_include_distant_ones(file: Path, capsys: Captured) -> None:
    model = Strided()
    exported = export(model, torch.zeros(1, 1, 64), file)
    assert shapes_of(exported) == {"signal": ["batch", 1, "signal_axis_2"]}
    assert exported.about["axes"]["signal_axis_2"]["verified_sizes"] == [32, 63, 64, 65, 128]
    print_axes(exported.about)
    assert "verified with 32, 63, 64, 65, 128" in capsys.readouterr().out
    program = load_program(file, exported)
    for size in (40, 60, 70, 300):
        signal = torch.randn(2, 1, size)
        assert_close(program({"signal": signal}), [model(signal)])


class DiffersIfShort(Strided):
    """Its exported file computes something else for short signals."""

    def forward(self, signal: Tensor) -> Tensor:
        logits = super().forward(signal)
        if torch.compiler.is_exporting():
            is_short = torch.ones_like(signal).sum() < 50 * len(signal)
            return torch.where(is_short, logits + 1, logits)
        return logits


def test_a_file_that_differs_at_a_distant_size_alone_has_a_fixed_axis(file: Path) -> None:
    exported = export(DiffersIfShort(), torch.zeros(1, 1, 64), file)
    assert shapes_of(exported) == {"signal": ["batch", 1, 64]}
    reasons = {entry["axis"]: entry["reason"] for entry in exported.about["fixed_axes"]}
    assert "at size 32" in reasons[2]
    declared = ExampleInputs(torch.zeros(1, 1, 64), {"signal": {2: "length"}})
    other = file.parent.parent / "declared" / file.name
    message = refused(export, DiffersIfShort(), declared, other, folder=other.parent)
    assert "'length'" in message
    assert "at size 32" in message


def test_a_declared_axis_with_near_limits_is_verified_with_the_sizes_that_the_model_takes(
    tmp_path: Path,
) -> None:
    example = ExampleInputs(torch.zeros(1, 1, 63), {"signal": {2: "length"}})
    exported = export(Strided(positions=16), example, tmp_path / "m.pt2")
    assert exported.about["axes"]["length"]["verified_sizes"] == [62, 63, 64]


def test_axes_that_the_model_cannot_halve_at_once_are_variable(tmp_path: Path) -> None:
    class Best(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.flatten(1).topk(20).values

    exported = export(Best(), torch.zeros(1, 8, 8), tmp_path / "m.pt2")
    assert exported.about["axes"]["image_axis_1"]["verified_sizes"] == [4, 7, 8, 9, 16]
    assert "image_axis_2" in exported.about["axes"]


def test_the_reason_for_a_fixed_axis_quotes_one_short_line_of_the_runtime(file: Path) -> None:
    class Best(nn.Module):
        def forward(self, signal: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                return signal.topk(40).values.mean(1)
            return signal.topk(min(40, signal.shape[1])).values.mean(1)

    exported = export(Best(), torch.zeros(1, 64), file)
    assert shapes_of(exported) == {"signal": ["batch", 64]}
    (fixed,) = exported.about["fixed_axes"]
    assert "at size 32" in fixed["reason"]
    assert len(fixed["reason"].splitlines()) == 1
    assert len(fixed["reason"]) < 250


def test_the_first_line_of_an_error_is_short_and_names_its_cause() -> None:
    cause = ValueError("\nno such\nsize\n")
    error = RuntimeError("a report")
    error.__cause__ = cause
    assert first_line(error) == "ValueError: no such"
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("long " * 100))) == 150


def test_sizes_that_must_be_multiples_are_found(tmp_path: Path) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(1, 4, 4, 4)
            self.up = nn.ConvTranspose2d(4, 1, 4, 4)

        def forward(self, image: Tensor) -> Tensor:
            restored: Tensor = self.up(self.down(image))
            return restored + image

    exported = export(Encoder(), torch.zeros(1, 1, 16, 16), tmp_path / "m.pt2")
    assert exported.about["axes"]["image_axis_2"]["verified_sizes"] == [8, 12, 16, 20, 32]


def test_a_fixed_batch_size_is_an_error_that_names_the_axis(tmp_path: Path) -> None:
    class FixedBatch(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            rows = [super(FixedBatch, self).forward(row) for row in input]
            return torch.stack(rows)

    message = refused(
        export, FixedBatch(4, 3), torch.zeros(1, 4), tmp_path / "m.pt2", folder=tmp_path
    )
    assert "'batch'" in message


def test_the_length_of_a_tensor_is_no_fixed_size(file: Path) -> None:
    class FirstState(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            state = torch.zeros(len(input), 3)
            return super().forward(input) + state

    model = FirstState(4, 3)
    exported = export(model, torch.zeros(1, 4), file)
    inputs = torch.randn(3, 4)
    assert_close(load_program(file, exported)({"input": inputs}), [model(inputs)])


def test_an_axis_that_makes_the_export_fail_is_fixed(tmp_path: Path) -> None:
    class Cached(nn.Linear):
        cache: dict[int, Tensor]

        def forward(self, input: Tensor) -> Tensor:
            length = input.shape[1]
            if length not in self.cache:
                self.cache[length] = torch.ones(length, 1)
            return super().forward(input) * self.cache[length]

    model = Cached(4, 3)
    model.cache = {}
    exported = export(model, torch.zeros(1, 6, 4), tmp_path / "m.pt2")
    assert shapes_of(exported) == {"input": ["batch", 6, 4]}
    reasons = [entry["reason"] for entry in exported.about["fixed_axes"]]
    assert "SymInt" in reasons[0]
    assert ".py" not in reasons[0]  # nor the rest of a path of this machine
    inputs = torch.randn(3, 6, 4)
    assert_close(load_program(tmp_path / "m.pt2", exported)({"input": inputs}), [model(inputs)])


def test_an_axis_is_fixed_if_the_file_takes_fewer_sizes_than_the_model(file: Path) -> None:
    class EvenOrOdd(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            if input.shape[1] % 2 == 0:
                return input.mean(1)
            return -input.mean(1)

    exported = export(EvenOrOdd(), torch.zeros(1, 6), file)
    assert shapes_of(exported) == {"input": ["batch", 6]}
    assert "takes 3, 5, 7, 12" in exported.about["fixed_axes"][0]["reason"]
    found = load_program(file, exported)({"input": torch.ones(2, 6)})
    assert_close(found, [torch.ones(2)])


def test_axes_of_outputs_are_words_also_if_their_size_is_computed(file: Path) -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(1, 2, 3, 2, 1)

        def forward(self, signal: Tensor) -> Any:
            features = self.layer(signal)
            return {"features": features, "positive": (signal[:, 0, 0] > 0).nonzero()}

    exported = export(Halved(), torch.zeros(1, 1, 16), file)
    features, positive = shapes_of(exported, "outputs").values()
    assert "signal_axis_2" in features[2]
    assert positive == ["positive_axis_0", 1]
    if file.suffix == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file)
        shapes = [entry.shape for entry in session.get_outputs()]
        assert shapes == [["batch", 2, "features_axis_2"], ["positive_axis_0", 1]]


def test_small_outputs_are_compared_as_well(tmp_path: Path) -> None:
    class Small(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            factor = 1e-5
            if torch.compiler.is_exporting():
                factor = 2e-5
            return factor * super().forward(input)

    message = refused(export, Small(4, 3), torch.zeros(1, 4), tmp_path / "m.pt2", folder=tmp_path)
    assert "differs" in message


# What cannot be exported


class Branch(nn.Linear):
    """Control flow that depends on a value."""

    def forward(self, input: Tensor) -> Tensor:
        if input.sum() > 0:
            return super().forward(input)
        return -super().forward(input)


def test_control_flow_that_depends_on_values_is_an_error_with_its_line(file: Path) -> None:
    message = refused(export, Branch(4, 3), torch.zeros(1, 4), file, folder=file.parent.parent)
    for part in ("test_export.py", "line", "torch.cond", "--format safetensors"):
        assert part in message


@pytest.mark.parametrize("layer", ["", "0"])
def test_a_forward_hook_is_an_error_that_names_layer_and_hook(file: Path, layer: str) -> None:
    def double(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return 2 * output

    model = nn.Sequential(nn.Linear(4, 3))
    handle = model.get_submodule(layer).register_forward_hook(double)
    message = refused(export, model, torch.zeros(1, 4), file, folder=file.parent.parent)
    for part in (layer or "Sequential", "double", "exported_model", "--format safetensors"):
        assert part in message
    handle.remove()
    export(model, torch.zeros(1, 4), file)
    assert file.is_file()


def test_the_hooks_of_torchs_own_weight_normalization_are_exported(tmp_path: Path) -> None:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 3)))
    exported = export(model, torch.zeros(1, 4), tmp_path / "m.pt2")
    inputs = torch.randn(3, 4)
    assert_close(load_program(tmp_path / "m.pt2", exported)({"input": inputs}), [model(inputs)])


def test_outputs_that_are_no_tensors_or_random_are_errors(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self, output: Callable[[Tensor], Any]) -> None:
            super().__init__()
            self.output = output

        def forward(self, input: Tensor) -> Any:
            return self.output(input)

    for output, part in (
        (lambda input: {"value": input, "name": "text"}, "str in name"),
        (lambda input: [{"a": input, "b": (3, input)}], "int in output_0_b_0"),
        (torch.rand_like, "random"),
    ):
        message = refused(
            export, Odd(output), torch.zeros(1, 4), tmp_path / "m.pt2", folder=tmp_path
        )
        assert part in message


def test_a_model_that_fails_or_uses_other_libraries_is_an_error(tmp_path: Path) -> None:
    class Numpy(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return torch.from_numpy(np.sort(input.numpy()))

    for model, parts in (
        (nn.Linear(7, 3), ["RuntimeError", "example_inputs"]),
        (Numpy(), ["test_export.py", "--format safetensors"]),
    ):
        message = refused(export, model, torch.zeros(1, 4), tmp_path / "m.pt2", folder=tmp_path)
        assert all(part in message for part in parts), message


def test_an_operator_that_onnx_lacks_is_an_error_that_names_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")

    class Eigenvalues(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            values: Tensor = torch.linalg.eigvals(input)
            return values.abs()

    message = refused(
        export, Eigenvalues(), torch.zeros(1, 3, 3), tmp_path / "m.onnx", folder=tmp_path
    )
    assert "linalg_eig" in message
    assert "--format pt2" in message


UNUSUAL_BUFFERS = {
    "complex128": lambda: torch.zeros(2, dtype=torch.complex128),
    "sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", UNUSUAL_BUFFERS)
def test_a_tensor_that_a_format_does_not_have_is_an_error_that_names_it(
    tmp_path: Path, kind: str
) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("table", UNUSUAL_BUFFERS[kind]())
    message = refused(export_weights, model, tmp_path / "a.safetensors", {}, folder=tmp_path)
    assert "table" in message
    assert kind in message


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_an_error_in_writing_a_file_is_reported_in_two_lines(file: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("table", UNUSUAL_BUFFERS["sparse_csr"]())
    message = refused(export, model, torch.zeros(1, 2), file, folder=file.parent.parent)
    assert file.suffix[1:] in message


def test_the_smallest_and_the_rarest_dtypes_are_written_as_weights(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("scale", torch.tensor(2.0).to(torch.float8_e4m3fn))
    model.register_buffer("missing", torch.tensor([torch.nan]))
    model.register_buffer("waves", torch.ones(2, dtype=torch.complex64))
    export_weights(model, tmp_path / "a.safetensors", {})
    stored = load_file(tmp_path / "a.safetensors")
    assert stored["scale"].float() == 2
    assert stored["waves"].dtype == torch.complex64


def test_a_lazy_layer_that_is_not_used_is_an_error_that_names_it(file: Path) -> None:
    model = nn.ModuleDict({"unused": nn.LazyLinear(2)})
    folder = file.parent.parent
    assert "unused.weight" in refused(export_weights, model, file, {}, folder=folder)


def test_a_file_that_differs_from_the_model_is_not_kept(file: Path) -> None:
    class Inconsistent(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                return super().forward(input) + 1
            return super().forward(input)

    file.parent.mkdir()
    model = Inconsistent(4, 3)
    message = refused(export, model, torch.zeros(1, 4), file, folder=file.parent.parent)
    assert "differs by up to 1.0" in message


# Weights alone


class Tied(nn.Module):
    """The words' embeddings are also the weights of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4)
        self.head = nn.Linear(4, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.words(tokens))
        return logits


def test_tied_weights_are_loaded_into_the_same_model(tmp_path: Path) -> None:
    model = Tied()
    export_weights(model, tmp_path / "m.safetensors", {"note": "tied"})
    other = Tied()
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert other.head.weight is other.words.weight
    assert torch.equal(other(words(2, 5)), model(words(2, 5)))


def test_tied_weights_are_exported_once(file: Path) -> None:
    model = Tied()
    model.words.weight.data = torch.randn(WORDS, 4)
    assert model.head.weight is model.words.weight
    exported = export(model, words(1, 5), file)
    assert_close(load_program(file, exported)({"tokens": words(2, 5)}), [model(words(2, 5))])


# The command, with the classes of a user


class Autoencoder(BaseModel):
    """An encoder and a decoder of images."""

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self.encoder = nn.Linear(dataset.example.numel(), 6)
        self.decoder = nn.Sequential(nn.Linear(6, 28 * 28), nn.Unflatten(1, (1, 28, 28)))

    def forward(self, input: Tensor) -> Tensor:
        restored: Tensor = self.decoder(self.encoder(input.flatten(1)))
        return restored


class AutoencoderTrainer(BaseTrainer):
    """Trains by the error of the restored images; exports the decoder."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(model(batch["input"]), batch["input"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.training_step(model, batch)

    def example_inputs(self, batch: Batch) -> Any:
        return torch.ones(len(batch["input"]), 6)

    def exported_model(self, model: nn.Module) -> nn.Module:
        return model.get_submodule("decoder")


class Undefined(AutoencoderTrainer):
    """Cannot say what its model takes."""

    def example_inputs(self, batch: Batch) -> Any:
        return None


USER_SETTINGS = (
    "checkpoint.monitor=loss",
    "model.name=networks.Autoencoder",
    "trainer.max_steps=2",
)


@pytest.fixture
def train_autoencoder(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[type[BaseTrainer]], Path]:
    """``train_autoencoder(Undefined)``: the folder of a short run with this trainer."""
    monkeypatch.setattr(networks, "Autoencoder", Autoencoder, raising=False)

    def run(kind: type[BaseTrainer]) -> Path:
        monkeypatch.setattr(classifier, kind.__name__, kind, raising=False)
        name = f"trainer.name=classifier.{kind.__name__}"
        assert train(tmp_path / "run", name, *USER_SETTINGS) == 0
        return tmp_path / "run"

    return run


def test_the_part_that_the_trainer_names_is_exported(
    train_autoencoder: Callable[..., Path], command: Command, capsys: Captured
) -> None:
    run = train_autoencoder(AutoencoderTrainer)
    state = load_checkpoint(run / "checkpoints/last.pt")
    assert torch.equal(state["example_inputs"]["inputs"][0], torch.zeros(1, 6))
    assert command("export", run) == 0
    assert "input: float32 (batch, 6)" in capsys.readouterr().out
    program = torch.export.load(run / "export/model.pt2").module()
    trainer, _ = restore_trainer([run / "checkpoints/best.pt"], None, [])
    latent = torch.randn(3, 6)
    decoded = trainer.model.get_submodule("decoder")(latent)
    torch.testing.assert_close(program(latent), decoded)


def test_missing_example_inputs_are_an_error_in_one_line_that_names_the_method(
    train_autoencoder: Callable[..., Path], command: Command, capsys: Captured
) -> None:
    run = train_autoencoder(Undefined)
    assert load_checkpoint(run / "checkpoints/last.pt")["example_inputs"] is None
    capsys.readouterr()
    assert command("export", run) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert "Undefined" in printed
    assert "example_inputs" in printed
    assert not (run / "export").exists()
    assert command("export", run, "--format", "safetensors") == 0


def test_example_inputs_that_are_defined_after_training_are_made_from_the_data(
    train_autoencoder: Callable[..., Path], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_autoencoder(Undefined)
    monkeypatch.setattr(Undefined, "example_inputs", AutoencoderTrainer.example_inputs)
    assert command("export", run) == 0
    program = torch.export.load(run / "export/model.pt2").module()
    assert program(torch.randn(2, 6)).shape == (2, 1, 28, 28)


def test_a_batch_without_a_tensor_called_input_has_no_example(make_trainer: Any) -> None:
    trainer = make_trainer()
    assert trainer.example_inputs({"tokens": torch.zeros(1, 2)}) is None
    assert trainer.example_inputs({"input": [torch.zeros(2)]}) is None
    assert trainer.example_inputs([torch.zeros(2)]) is None


def test_example_inputs_that_fail_are_reported_before_the_first_step(
    train: Command, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Classifier):
        def example_inputs(self, batch: Batch) -> Any:
            return batch["image"]

    monkeypatch.setattr(classifier, "Failing", Failing, raising=False)
    assert train(tmp_path / "run", "trainer.name=classifier.Failing") == 2
    printed = capsys.readouterr().err
    assert "Failing.example_inputs or exported_model fails: KeyError: 'image'" in printed
    assert not (tmp_path / "run").exists()


def test_the_example_inputs_do_not_change_the_random_numbers(
    make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Synthetic.__getitem__

    def noisy(dataset: Synthetic, index: int) -> Any:
        sample = original(dataset, index)
        return {**sample, "input": sample["input"] + torch.rand(1).byte()}

    trainer = make_trainer()
    monkeypatch.setattr(Synthetic, "__getitem__", noisy)
    before = torch.get_rng_state()
    saved = trainer.saved_example_inputs
    assert torch.equal(torch.get_rng_state(), before)
    assert saved["inputs"][0].shape == (1, 1, 28, 28)
    assert not saved["inputs"][0].any()


@pytest.mark.parametrize("name", ["weights.safetensors", "model.pt2"])
def test_the_format_follows_from_the_name_of_the_file(
    trained_run: Path, tmp_path: Path, command: Command, name: str
) -> None:
    assert command("export", trained_run, "--output", tmp_path / name) == 0
    if name.endswith("safetensors"):
        assert load_file(tmp_path / name)
    else:
        assert torch.export.load(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--format", "pt2", "--output", "m.onnx"], ["pt2", "m.onnx"]),
        (["--output", "model.bin"], ["model.bin", ".pt2, .onnx, .safetensors"]),
        (["--output", "model"], ["--output model", ".onnx"]),
    ],
)
def test_a_format_that_contradicts_the_name_is_an_error(
    trained_run: Path,
    tmp_path: Path,
    command: Command,
    capsys: Captured,
    arguments: list[str],
    parts: list[str],
) -> None:
    assert command("export", trained_run, *arguments) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_an_error_that_names_the_extra(
    trained_run: Path,
    tmp_path: Path,
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert command("export", trained_run, "--output", tmp_path / "m.onnx") == 2
    assert ".[onnx]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The description


def test_no_exported_file_contains_a_path_of_this_machine(
    trained_run: Path, tmp_path: Path, command: Command
) -> None:
    state = load_checkpoint(trained_run / "checkpoints/best.pt")
    state["settings"]["data"]["root"] = str(tmp_path / "private")
    state["settings"]["model"]["init_from"] = str(ROOT / "runs/other")
    save_checkpoint(tmp_path / "local.pt", state)
    pytest.importorskip("onnxruntime")
    for name in ("m.pt2", "m.onnx", "m.safetensors"):
        assert command("export", tmp_path / "local.pt", "--output", tmp_path / "out" / name) == 0
        content = (tmp_path / "out" / name).read_bytes()
        for path in (str(tmp_path), str(ROOT), "site-packages"):
            assert path.encode() not in content, (name, path)
    with safe_open(tmp_path / "out/m.safetensors", framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    settings = about["settings"]
    assert about["inputs"][0]["shape"] == ["batch", 1, 28, 28]
    assert "root" not in settings["data"]
    assert settings["model"]["init_from"] == "runs/other"
    assert settings["data"]["name"] == "synthetic.Synthetic"


def test_only_paths_of_this_machine_are_left_out(tmp_path: Path) -> None:
    values = {
        "root": "/data/x",
        "home": "~/data",
        "drive": "C:\\data",
        "kept": ["data", "a/b", "/", "https://host/x", 3, None],
        "own": str(tmp_path / "runs/a"),
        "list": ["/data/x", "y"],
    }
    assert without_local_paths(values, tmp_path) == {
        "kept": ["data", "a/b", "/", "https://host/x", 3, None],
        "own": "runs/a",
        "list": ["y"],
    }


def test_about_json_is_written_beside_the_file_and_is_in_it(
    trained_run: Path, command: Command
) -> None:
    assert command("export", trained_run) == 0
    about = read_about(trained_run)
    extra_files = {"about.json": ""}
    torch.export.load(trained_run / "export/model.pt2", extra_files=extra_files)
    assert json.loads(extra_files["about.json"]) == about
    (entry,) = about["inputs"]
    assert (entry["name"], entry["dtype"], entry["shape"][:2]) == ("input", "float32", ["batch", 1])
    assert about["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]
    assert about["axes"]["batch"]["verified_sizes"] == [1, 2, 5]


def test_a_program_without_the_project_prepares_an_image(
    trained_run: Path, tmp_path: Path, command: Command, capsys: Captured
) -> None:
    pixels = (np.arange(40 * 25 * 4) % 251).astype(np.uint8).reshape(25, 40, 4)
    images = {
        "transparent.png": Image.fromarray(pixels),
        "16-bit.png": Image.fromarray(np.arange(28 * 28, dtype=np.uint16).reshape(28, 28) * 80),
        "narrow.png": Image.fromarray(pixels[:, :3, 0]),
    }
    files = [tmp_path / name for name in images]
    for file, image in zip(files, images.values(), strict=True):
        image.save(file)
    assert command("export", trained_run) == 0
    about = read_about(trained_run)
    prepared = np.concatenate([prepare_image(file, about) for file in files])
    logits = run_outside(trained_run / "export/model.pt2", prepared, tmp_path / "outside")
    capsys.readouterr()
    assert command("predict", trained_run, *files, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    for probabilities, entry in zip(logits.softmax(1), entries, strict=True):
        answer = entry["predictions"][0]
        best = int(probabilities.argmax())
        assert about["data"]["classes"][best] == answer["class"]
        assert probabilities[best].item() == pytest.approx(answer["probability"], abs=0.01)


# The predictions that predict.py prints


def test_answers_of_different_number_and_kind_are_printed_one_per_row(capsys: Captured) -> None:
    box = {"box": [1, 2], "score": 0.5}
    entries: list[dict[str, Any]] = [
        {"input": "a", "predictions": [box, {"box": [3, 4], "score": 0.25, "note": "x"}]},
        {"input": "empty", "predictions": []},
        {"input": "bad", "error": "unreadable"},
        {"input": "c", "predictions": [box]},
    ]
    predict.print_table("boxes", entries)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["input", "(boxes)", "box", "score", "note"]
    assert [line.split()[0] for line in lines[2:]] == ["a", "a", "empty", "c"]
    assert lines[3].split()[-2:] == ["0.25", "x"]
    assert lines[4].split() == ["empty"]
    predict.print_table("nothing", [{"input": "empty", "predictions": []}])
    assert "empty" in capsys.readouterr().out


def test_the_default_answers_contain_all_outputs_by_name() -> None:
    boxes = torch.arange(8.0).reshape(2, 4)
    for outputs, expected in (
        (torch.tensor([[1.0], [2.0]]), [{"output": [1.0]}, {"output": [2.0]}]),
        (
            (boxes[:, 0], boxes[:, 1]),
            [{"output_0": 0, "output_1": 1}, {"output_0": 4, "output_1": 5}],
        ),
        ({"a": boxes[:, 3]}, [{"a": 3}, {"a": 7}]),
        (
            Detection(boxes, boxes[:, 0]),
            [{"boxes": [0, 1, 2, 3], "score": 0}, {"boxes": [4, 5, 6, 7], "score": 4}],
        ),
    ):
        assert answers_by_sample(outputs) == [[answer] for answer in expected]


def test_outputs_without_a_batch_dimension_need_an_own_description() -> None:
    for outputs in ({"a": torch.zeros(2, 3), "b": torch.zeros(3)}, torch.tensor(1.0)):
        with pytest.raises(UserError, match="describe"):
            answers_by_sample(outputs)


def test_all_outputs_are_printed_as_json(
    trained_run: Path, tmp_path: Path, command: Command, capsys: Captured, monkeypatch: Any
) -> None:
    class Pair(Classifier):
        def predict_step(self, model: nn.Module, batch: Batch) -> Any:
            logits = model(batch["input"])
            return {"logits": logits, "best": logits.argmax(1)}

        describe = BaseTrainer.describe

    monkeypatch.setattr(classifier, "Classifier", Pair)
    Image.new("L", (28, 28), 90).save(tmp_path / "x.png")
    assert command("predict", trained_run, tmp_path / "x.png", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["inputs"]
    ((answer),) = entry["predictions"]
    assert answer["logits"][answer["best"]] == max(answer["logits"])


def test_a_description_with_another_number_of_inputs_is_an_error(
    trained_run: Path, tmp_path: Path, command: Command, capsys: Captured, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Classifier, "describe", lambda *_: [])
    Image.new("L", (28, 28), 90).save(tmp_path / "x.png")
    assert command("predict", trained_run, tmp_path / "x.png") == 2
    assert "Classifier.describe" in capsys.readouterr().err
