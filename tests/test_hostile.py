"""Untrusted input: settings, weights and images from strangers."""

import codecs
import importlib
import io
import json
import os
import pickle
import random
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PAYLOAD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Captured = pytest.CaptureFixture[str]
MINIMAL = """
data: {name: synthetic.Synthetic}
model: {name: networks.MLP}
trainer: {name: classifier.Classifier}
"""


@pytest.fixture(scope="module", autouse=True)
def payload() -> Iterator[SimpleNamespace]:
    """Modules of the payload by name; the payload works without being rendered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PAYLOAD))
        patch.delenv("DATA_ROOT", raising=False)
        modules = (
            "config.loading",
            "utils.command",
            "utils.errors",
            "storage.checkpoint_file",
            "data_loader.synthetic",
        )
        found = {name.split(".")[1]: importlib.import_module(name) for name in modules}
        patch.setattr(found["synthetic"], "TRAINING", 400)
        patch.setattr(found["synthetic"], "VALIDATION", 100)
        yield SimpleNamespace(**found)


@pytest.fixture
def command(payload: SimpleNamespace, capsys: Captured) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process; returns its exit code and stderr."""

    def run(name: str, *arguments: object) -> tuple[int, str]:
        main = importlib.import_module(name).main
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            payload.command.run_command(main)
        return int(stop.value.code or 0), capsys.readouterr().err

    return run


# Settings


def check_settings(source: Path, overrides: list[str] | None = None) -> str:
    """Returns the error of invalid settings, which has one or two short lines, or ""."""
    loading, errors = (importlib.import_module(n) for n in ("config.loading", "utils.errors"))
    try:
        loading.load_settings(source, overrides or [])
    except errors.UserError as error:
        assert error.exit_code == 2
        lines = str(error).split("\n")
        assert len(lines) <= 2
        assert all(len(line) < 400 for line in lines)
        return str(error)
    return ""


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates()
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
NAMES = st.sampled_from(
    "name seed device data model trainer optimizer scheduler logger batch_size workers root".split()  # noqa: SIM905
)
KEYS = NAMES | st.text() | st.integers()
TREES = st.dictionaries(KEYS, NESTED | st.dictionaries(KEYS, NESTED))
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_valid_settings_or_give_a_short_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fuzz.yaml").write_bytes(content)
    check_settings(tmp_path / "fuzz.yaml")
    (tmp_path / "fuzz.yaml").write_bytes(MINIMAL.encode() + content)
    check_settings(tmp_path / "fuzz.yaml")


@FUZZ
@given(TREES)
def test_any_values_are_valid_settings_or_give_a_short_error(
    tmp_path: Path, tree: dict[Any, Any]
) -> None:
    file = tmp_path / "fuzz.yaml"
    file.write_text(json.dumps(tree, default=str), encoding="utf-8")
    check_settings(file)
    minimal = {"data": {"name": "synthetic.Synthetic"}, "model": {"name": "networks.MLP"}}
    file.write_text(json.dumps({**minimal, **tree}, default=str), encoding="utf-8")
    check_settings(file)


@FUZZ
@given(
    NAMES | st.builds("{}.{}".format, NAMES, NAMES) | st.text(),
    st.text() | NESTED.map(lambda value: json.dumps(value, default=str)),
)
def test_any_override_is_valid_or_gives_a_short_error(tmp_path: Path, key: str, value: str) -> None:
    (tmp_path / "fuzz.yaml").write_text(MINIMAL, encoding="utf-8")
    check_settings(tmp_path / "fuzz.yaml", [f"{key}={value}"])
    check_settings(tmp_path / "fuzz.yaml", [f"{key}{value}"])


def bomb() -> bytes:
    """Returns YAML whose aliases expand to 9 ** 14 values: each line has nine of the previous."""
    names = [chr(code) for code in range(ord("a"), ord("p"))]
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in pairwise(names)]
    return "\n".join(lines).encode()


HOSTILE_SETTINGS = {
    "alias bomb": bomb(),
    "itself": b"&a {a: *a}",
    "nested": b"[" * 40_000,
    "nested maps": b"{a: " * 9_000,
    "many digits": b"seed: " + b"9" * 5_000,
    "large exponent": MINIMAL.encode() + b"seed: 1e999999999",
    "not a number": MINIMAL.encode() + b"optimizer: {name: SGD, lr: .nan}",
    "infinity": MINIMAL.encode() + b"optimizer: {name: SGD, lr: -.inf}",
    "twice": b"seed: 1\nseed: 2",
    "tag": b"seed: !!python/object/apply:os.system [touch sprung]",
    "constructor": b"model: !!python/name:os.system {}",
    "UTF-16": "seed: 1".encode("utf-16"),
    "Latin-1": b"name: \xe9",
    "zeros": b"\0" * 1000,
    "half a pair": MINIMAL.encode() + b'name: "\\ud800"',
    "a long line": b"a" * 100_000_000,
    "a long key": MINIMAL.encode() + b"? " + b"k" * 40_000 + b"\n: 1",
    "a list as key": MINIMAL.encode() + b"? [1, 2]\n: 3",
    "nothing": b"",
    "two documents": b"---\na: 1\n---\nb: 2",
    "outside": MINIMAL.encode().replace(b"networks.MLP", b"../networks.MLP"),
    "a class of another package": MINIMAL.encode().replace(b"networks.MLP", b"os.system"),
}


@pytest.mark.parametrize("kind", HOSTILE_SETTINGS)
def test_hostile_settings_give_a_short_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "hostile.yaml").write_bytes(HOSTILE_SETTINGS[kind])
    assert check_settings(tmp_path / "hostile.yaml")
    assert not Path("sprung").exists()


def test_a_settings_path_that_is_not_a_regular_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "missing"):
        assert check_settings(path)


# Weights


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class State(Call):
    """Calls a function when the state of an object is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (), None, None, iter([("key", Call(*self.call[:1], *self.call[1]))])


def traps(folder: str) -> dict[str, Any]:
    """Returns objects that create a folder, each in another way, when they are unpickled."""
    import torch

    code = f"__import__('os').mkdir({folder!r})"
    shell = f"mkdir {folder}"
    simple = Call(os.mkdir, folder)
    return {
        "mkdir": simple,
        "system": Call(os.system, shell),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "popen": Call(os.popen, shell),
        "subprocess": Call(__import__("subprocess").check_call, ["mkdir", folder]),
        "getattr": Call(getattr, Call(importlib.import_module, "os"), "mkdir"),
        "import": Call(__import__, "antigravity"),
        "codecs": Call(codecs.encode, simple, "latin1"),
        "pickle in pickle": Call(pickle.loads, pickle.dumps(simple)),
        "torch.load": Call(torch.load, folder),
        "numpy": Call(__import__("numpy").load, folder, None, True),
        "in a list": [1, [2, [simple]]],
        "in a tuple": (simple,),
        "as a key": {"a": {"b": simple}},
        "in a state": State(os.mkdir, folder),
        "partial": __import__("functools").partial(os.mkdir, folder),
        "module": torch.nn.Linear(2, 2),
        "setattr": Call(setattr, Call(importlib.import_module, "sys"), "sprung", True),
        "parameter": torch.nn.ParameterDict({"a": torch.zeros(1)}),
        "os.path": Call(os.path.exists, folder),
        "delattr": Call(delattr, Call(importlib.import_module, "os"), "sep"),
    }


def containers(trap: Any, folder: Path) -> dict[str, bytes]:
    """Returns files of other formats that contain a trap."""
    import torch

    raw, legacy, tar, nested = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    raw.write(pickle.dumps(trap))
    torch.save(trap, legacy, _use_new_zipfile_serialization=False)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(raw.getvalue())
            archive.addfile(entry, io.BytesIO(raw.getvalue()))
    with zipfile.ZipFile(nested, "w") as archive_:
        archive_.writestr("archive/data.pkl", raw.getvalue())
        archive_.writestr("archive/inner.zip", legacy.getvalue())
        archive_.writestr("../outside", b"")
        archive_.writestr("archive/version", b"3")
    forms = {"raw": raw, "legacy": legacy, "tar": tar, "nested": nested}
    return {name: buffer.getvalue() for name, buffer in forms.items()}


@pytest.fixture(scope="module")
def corpus(payload: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Malicious files by what they try; some end with a valid SHA-256 checksum."""
    import hashlib

    folder = tmp_path_factory.mktemp("corpus")
    files: dict[str, Path] = {}
    found = traps(str(folder / "sprung"))
    for number, (name, trap) in enumerate(found.items()):
        state = {"settings": {}, "model": {"weight": trap}, "step": 1, "data": {}}
        files[name] = folder / f"{number}.pt"
        payload.checkpoint_file.save_checkpoint(files[name], state)
    for name, content in containers(found["mkdir"], folder).items():
        for sealed in (False, True):
            files[f"{name} {sealed}"] = folder / f"{name}{sealed:d}.pt"
            checksum = hashlib.sha256(content).digest() if sealed else b""
            files[f"{name} {sealed}"].write_bytes(content + checksum)
    return files


def test_code_in_weights_is_never_executed(
    corpus: dict[str, Path], command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(MINIMAL, encoding="utf-8")
    assert len(corpus) >= 20
    for name, file in corpus.items():
        for arguments in (
            ("train", "--resume", file),
            ("train", "--config", config, f"model.init_from={file}"),
            ("evaluate", file),
            ("predict", file, "image.png"),
            ("export", file),
        ):
            code, message = command(*arguments)
            assert code == 2, (name, arguments, message)
            assert str(file) in message, (name, message)
            assert len(message.splitlines()) == 1, (name, message)
        assert not (file.parent / "sprung").exists(), name
    assert not hasattr(sys, "sprung")
    pickle.loads(pickle.dumps(traps(str(tmp_path / "sprung"))["mkdir"]))
    assert (tmp_path / "sprung").exists()  # the traps work


def test_a_checkpoint_with_any_flipped_bit_is_rejected(
    payload: SimpleNamespace, tmp_path: Path
) -> None:
    """Flips 1,500 bits in headers, names, padding, tensors and the checksum."""
    import torch

    file = tmp_path / "x.pt"
    rng = random.Random(0)
    tensors = {f"weight{k}": torch.randn(17, 3) for k in range(30)}
    payload.checkpoint_file.save_checkpoint(file, {"step": 1, "settings": {}, "model": tensors})
    content = bytearray(file.read_bytes())
    positions = [len(content) * k // 1500 for k in range(1500)]
    for position in positions:
        bit = 1 << rng.randrange(8)
        content[position] ^= bit
        file.write_bytes(content)
        with pytest.raises(payload.errors.UserError, match="damaged"):
            payload.checkpoint_file.load_checkpoint(file)
        content[position] ^= bit
    file.write_bytes(content)
    assert payload.checkpoint_file.load_checkpoint(file)["step"] == 1


# Images


@pytest.fixture(scope="module")
def run(payload: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.yaml").write_text(MINIMAL, encoding="utf-8")
    main = importlib.import_module("train").main
    options = ["trainer.max_steps=1", "logger.tensorboard=false", "device=cpu"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        arguments = ["--config", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
        patch.setattr(sys, "argv", ["train.py", *arguments, *options])
        payload.command.run_command(main)
    assert not stop.value.code
    return folder / "run"


def png(width: int, height: int) -> bytes:
    """Returns a PNG file with a header of this size and the data of few pixels."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def test_unreadable_images_are_reported_and_the_others_classified(
    run: Path, command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    from PIL import Image

    good = []
    buffer = io.BytesIO()
    for name, mode in {
        "grey.png": "L", "colour.png": "RGB", "palette.gif": "P", "alpha.png": "RGBA",
        "greyalpha.png": "LA", "print.tiff": "CMYK", "bits.png": "1", "deep.png": "I;16",
        "float.tiff": "F", "photo.jpg": "RGB", "modern.webp": "RGB",
    }.items():  # fmt: skip
        Image.new(mode, (40, 30), 1).save(tmp_path / name)
        good.append(tmp_path / name)
    for size in ((1, 1), (3000, 1), (1, 3000)):
        good.append(tmp_path / f"{size[0]}x{size[1]}.png")
        Image.new("L", size).save(good[-1])
    frames = [Image.new("P", (9, 9), k) for k in range(3)]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("L", (28, 28)).save(tmp_path / "really a.png", format="JPEG")
    good += [tmp_path / "animated.gif", tmp_path / "really a.png"]

    Image.new("RGB", (64, 64), "red").save(buffer, format="PNG")
    whole = buffer.getvalue()
    rng = random.Random(0)
    bad: dict[str, bytes] = {
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "text.png": b"hello",
        "bomb.png": png(20_000, 20_000),
        "large.png": png(2**31 - 1, 2**31 - 1),
        "none.png": png(0, 0),
        "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "print.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for number in range(200):
        fuzzed = bytearray(whole)
        for _ in range(5):
            fuzzed[rng.randrange(len(fuzzed))] = rng.randrange(256)
        bad[f"fuzz{number}.png"] = bytes(fuzzed[: rng.randrange(1, len(fuzzed))])
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    Image.new("I", (40, 30), 1).save(tmp_path / "integer.tiff")  # the value of white is unknown
    (tmp_path / "empty").mkdir()
    others = [
        tmp_path / "integer.tiff",
        tmp_path / "empty",
        tmp_path / "pipe.png",
        Path("/dev/zero"),
        tmp_path / "missing.png",
    ]
    unreadable = [*(tmp_path / name for name in bad), *others]

    code, message = command("predict", run, *good)
    assert (code, message) == (0, "")
    code, message = command("predict", run, *unreadable, *good)
    assert code == 2
    assert "Traceback" not in message
    lines = message.splitlines()
    assert len(lines) == len([line for line in lines if line.startswith("error: ")])
    for path in unreadable:
        if "fuzz" not in path.name:  # some of them are valid by chance
            assert any(str(path) in line for line in lines), path
