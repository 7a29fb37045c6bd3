"""Weights of any origin: what is read, how names are compared, and what is refused."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save

from config.schema import Settings
from storage.checkpoint_file import load_checkpoint
from storage.state import evaluation_weights
from storage.weights import match_weights, read_weights
from utils.errors import UserError

Command = Callable[..., int]


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_all_fit(model: nn.Module, source: Path) -> None:
    expected = weights_of(model)
    match = match_weights(model.state_dict(), read_weights(source))
    assert match.missing == match.other_shapes == []
    assert match.fitting.keys() == expected.keys()
    for name, value in match.fitting.items():
        assert torch.equal(value, expected[name]), name


def with_prefix(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net.backbone."],
)
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model",), ("ema", "module")])
def test_wrapping_keys_and_prefixes_are_removed(
    tmp_path: Path, model: nn.Module, prefix: str, keys: tuple[str, ...]
) -> None:
    content: Any = with_prefix(prefix, weights_of(model))
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "x.pth")
    assert_all_fit(model, tmp_path / "x.pth")


@pytest.mark.parametrize("keys", [("params_ema",), ("generator", "model_state")])
def test_the_only_key_with_tensors_is_read(
    tmp_path: Path, model: nn.Module, keys: tuple[str, ...]
) -> None:
    content: Any = weights_of(model)
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "x.pth")
    assert_all_fit(model, tmp_path / "x.pth")


def test_file_with_several_models_is_refused_with_its_keys(
    tmp_path: Path, model: nn.Module
) -> None:
    torch.save({"teacher": weights_of(model), "student": weights_of(model)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth.*teacher, student"):
        read_weights(tmp_path / "x.pth")


def test_text_is_not_taken_for_a_file_with_code(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"x\.pth.*starts with b'version") as error:
        read_weights(tmp_path / "x.pth")
    assert "code" not in str(error.value)


def test_weights_of_a_part_fit_a_model_that_contains_it(tmp_path: Path, model: nn.Module) -> None:
    torch.save(weights_of(model), tmp_path / "x.pth")
    whole = nn.ModuleDict({"network": model, "head": nn.Linear(2, 5)})
    match = match_weights(whole.state_dict(), read_weights(tmp_path / "x.pth"))
    assert match.missing == ["head.weight", "head.bias"]
    assert len(match.fitting) == len(model.state_dict())


def test_several_files_with_an_index_are_read(tmp_path: Path, model: nn.Module) -> None:
    names = list(model.state_dict())
    parts = {"a": names[:3], "b": names[3:]}
    for ending, write in (("safetensors", save_file), ("bin", torch.save)):
        folder = tmp_path / ending
        folder.mkdir()
        weight_map: dict[str, str] = {}
        for part, part_names in parts.items():
            weights = weights_of(model)
            write({name: weights[name] for name in part_names}, folder / f"{part}.{ending}")
            weight_map |= dict.fromkeys(part_names, f"{part}.{ending}")
        kind = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
        index = folder / f"{kind}.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
        assert_all_fit(model, folder)
        assert_all_fit(model, index)
        (folder / f"b.{ending}").unlink()
        with pytest.raises(UserError, match=rf"b\.{ending} is missing"):
            read_weights(folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_folder_of_a_distributed_checkpoint_is_read(tmp_path: Path, model: nn.Module) -> None:
    save({"model": weights_of(model), "step": 3}, checkpoint_id=tmp_path / "x", no_dist=True)
    assert_all_fit(model, tmp_path / "x")


class MaliciousObject:
    """Creates a folder when it is unpickled, in place of worse things."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("created",)


def test_code_in_a_file_is_never_run(tmp_path: Path, model: nn.Module) -> None:
    torch.save({"state_dict": weights_of(model), "x": MaliciousObject()}, tmp_path / "x.pth")
    torch.save(model, tmp_path / "module.pth")
    folder = tmp_path / "distributed"
    folder.mkdir()
    (folder / ".metadata").write_bytes(b"cos\nmkdir\n(S'created'\ntR.")
    for source in (tmp_path / "x.pth", tmp_path / "module.pth", folder):
        with pytest.raises(UserError, match=r"safetensors"):
            read_weights(source)
    assert not Path("created").exists()


def test_tensors_that_do_not_fit_are_listed(model: nn.Module) -> None:
    weights = weights_of(model)
    weights["0.weight"] = torch.zeros(9, 9)
    weights["0.bias"] = torch.zeros(4, dtype=torch.uint8)
    del weights["2.bias"]
    weights["other"] = torch.zeros(1)
    weights["2.weight"] = weights["2.weight"].half()  # is converted
    text = match_weights(model.state_dict(), weights).describe()
    assert len(text.splitlines()) == 2
    for part in (
        "6 of the model's 9",
        "0.weight float32 (9, 9)",
        "0.bias uint8",
        "2.bias",
        "other",
    ):
        assert part in text


class WithVersion(nn.Linear):
    """A layer that saves more than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}


def test_only_tensors_are_matched() -> None:
    model = WithVersion(3, 4)
    match = match_weights(model.state_dict(), model.state_dict())
    assert match.fitting.keys() == {"weight", "bias"}
    assert match.missing == match.other_shapes == match.unused == []


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "model.safetensors.index.json"])
def test_unusable_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as error:
        read_weights(tmp_path / name)
    assert error.value.exit_code == 2
    assert len(str(error.value).splitlines()) == 1


def test_run_starts_from_its_own_export(
    tmp_path: Path, trained_run: Path, command: Command, make_settings: Callable[..., Settings]
) -> None:
    export = tmp_path / "model.safetensors"
    assert command("export", trained_run, "--output", export) == 0
    state = load_checkpoint(trained_run / "checkpoints/best.pt")
    for name, value in evaluation_weights(state).items():
        assert torch.equal(read_weights(export)[name], value)


def test_file_without_fitting_weights_is_an_error(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"other": torch.zeros(3)}, "x.pth")
    assert command("train", "--config", CONFIG, "model.init_from=x.pth") == 2
    message = capsys.readouterr().err
    assert "x.pth: no weights match" in message
    assert "left over in the file: other" in message
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("value", [math.nan, 1e300])
def test_weights_that_are_not_finite_are_refused(
    trained_run: Path, command: Command, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    weights = read_weights(trained_run)
    weights["head.weight"] = torch.full_like(weights["head.weight"], value, dtype=torch.float64)
    torch.save(weights, "x.pth")
    assert command("train", "--config", CONFIG, "model.init_from=x.pth") == 2
    message = capsys.readouterr().err
    assert "model.init_from = x.pth" in message
    assert "head.weight" in message
