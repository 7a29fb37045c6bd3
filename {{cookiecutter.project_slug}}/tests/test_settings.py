"""Settings: where they come from, what is checked, and what the errors contain."""
# ruff: noqa: D103  the names of the tests say what they test

import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import hypothesis
import processes  # noqa: F401  defines trainers and models
import pytest
import test_metrics  # noqa: F401  defines trainers
from hypothesis import given
from hypothesis import strategies as st

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from builders import fit_dataset
from config.classes import find_class, list_classes
from config.constructors import class_settings, construct, constructor_parameters
from config.loading import changes_that_need_force, load_section, load_settings, to_yaml
from config.reading import parse, parse_overrides
from config.schema import (
    ClassSection,
    DataSettings,
    ModelSettings,
    Settings,
    TrainerSettings,
    section_type,
)
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SYNTHETIC = ROOT / "config/synthetic.yaml"
PACKAGES = {"data_loader": BaseDataset, "model": BaseModel, "trainer": BaseTrainer}
Command = Callable[..., int]
AddFiles = Callable[..., None]
pytestmark = pytest.mark.usefixtures("few_files")


def refusal(*changes: str, source: Path = SYNTHETIC) -> str:
    """The message about settings that are not accepted."""
    with pytest.raises(UserError) as error:
        load_settings(source, changes)
    assert error.value.exit_code == 2
    return str(error.value)


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def add_files(few_files: Path) -> AddFiles:
    """``add_files({"model/my.py": "..."})``: adds modules to the copy of the project."""

    def add(files: dict[str, str]) -> None:
        for name, content in files.items():
            (few_files / name).parent.mkdir(parents=True, exist_ok=True)
            (few_files / name).write_text(dedent(content), encoding="utf-8")
        importlib.invalidate_caches()

    return add


# Errors


def test_settings_file_that_is_too_long_is_rejected_and_not_cut(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("# " + 25_000 * "é" + "\nseed: 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"long\.yaml .*50000 bytes"):
        load_settings(file)


def test_missing_default_settings_are_reported_with_the_available_files(tmp_path: Path) -> None:
    for folder in (
        "config",
        "logger",
        "storage",
        "utils",
    ):  # copying an environment would take gigabytes
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "train.py", tmp_path)
    pointer = tmp_path / "config/default.txt"
    pointer.unlink()
    results = [run_python("train.py", cwd=tmp_path)]
    for name in ("", "config/synthetic.yaml"):
        pointer.write_text(name)
        results.append(run_python("train.py", cwd=tmp_path))
    for done in results:
        assert done.returncode == 2
        assert done.stderr.startswith("error: cannot read the settings file")
        assert "synthetic.yaml" in done.stderr
        assert "default.txt" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("seeds", "seed"),
        ("trainer.epoch", "trainer.epochs"),
        ("loss.balance", "loss.balanced"),
        ("optimizer.momentun", "optimizer.momentum"),
        ("model.widht", "model.width"),
        ("trainr.epochs", "trainer"),
    ],
)
def test_an_unknown_setting_is_reported_with_the_most_similar_one(wrong: str, right: str) -> None:
    assert f"did you mean {right}?" in refusal(f"{wrong}=3")


def test_an_unknown_setting_without_a_similar_one_is_reported_with_all() -> None:
    message = refusal("optimizer={name: AdamW, nesterov: true}")
    assert "optimizer.nesterov" in message
    assert "betas" in message
    assert "momentum" not in message
    assert "width" in refusal("model.xyz=1")
    assert "epochs" in refusal("trainer.xyz=1")
    assert "xyz" in refusal("xyz.name=1")
    assert "unknown" in refusal(".name=1")


INVALID = (  # setting, value, part of the message that states what is allowed
    ("name", "..", "pattern"),
    ("data.workers", "1000000", "1024"),
    ("trainer.epochs", "many", "integer"),
    ("trainer.epochs", "2.5", "integer"),
    ("trainer.epochs", "0", "greater than or equal to 1"),
    ("trainer.ema", "1.0", "less than 1"),
    ("trainer.precision", "fp8", "'auto', 'fp32', 'bf16' or 'fp16'"),
    ("trainer.compile", "1", "boolean"),
    ("trainer.name", "classifier.Nothing", "classifier.Classifier"),
    ("loss.balanced", "1", "boolean"),
    ("logger.tensorboard", "no", "boolean"),
    ("optimizer.name", "Adamm", "did you mean Adam?"),
    ("scheduler.name", "cosin", "did you mean cosine?"),
    ("optimizer.lr", "fast", "number"),
    ("optimizer.lr", "-0.1", "greater than 0"),
    ("model.name", "os.system", "networks.MLP"),
    ("model.name", "networks.ConvNetz", "did you mean networks.ConvNet?"),
    ("model.width", "wide", "integer"),
    ("model.width", "0", "greater than or equal to 1"),
    ("model.freeze", "stage1.*", "a valid list [a, b]"),
)


def test_an_invalid_value_is_reported_with_its_setting_and_what_is_allowed() -> None:
    for key, value, allowed in INVALID:
        setting, _, message = refusal(f"{key}={value}").partition(": ")
        assert setting in (f"{key} = {value}", f'{key} = "{value}"')
        assert allowed in message


def test_a_number_for_a_text_is_reported_with_the_quotes_that_make_it_one() -> None:
    message = refusal("name=007")
    assert "name = 7:" in message
    assert """name='"7"'""" in message
    assert load_settings(SYNTHETIC, ['name="007"']).name == "007"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("trainer.epochs=1e0", ": 1"),
        ("data.batch_size=6.4e1", ": 64"),
        ('data.batch_size="64"', "without quotes: 64"),
        ('optimizer.lr="1e-3"', "without quotes: 1e-3"),
    ],
)
def test_a_number_in_another_form_is_reported_with_the_form_that_is_accepted(
    text: str, advice: str
) -> None:
    assert refusal(text).endswith(advice)
    key, _, _ = text.partition("=")
    load_settings(SYNTHETIC, [f"{key}={advice.rpartition(': ')[2]}"])


@pytest.mark.parametrize("text", [",", "%", "[x", "it's: {"])
def test_a_text_that_is_no_yaml_is_reported_with_the_quotes_that_make_it_one(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_overrides([f"data.file={text}"])
    assert error.value.exit_code == 2
    _, _, advice = str(error.value).rpartition("write a text as ")
    (override,) = shlex.split(advice)
    assert parse_overrides([override]) == [("data.file", text)]


def test_yaml_and_command_line_give_the_same_message(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    for key, value, _ in INVALID:
        content: dict[str, Any] = {
            "data": {"name": "synthetic.Synthetic"},
            "model": {"name": "networks.ConvNet"},
            "trainer": {"name": "classifier.Classifier"},
            "loss": {},
            "optimizer": {"name": "SGD"},
            "scheduler": {},
            "logger": {},
        }
        section, _, name = key.rpartition(".")
        target = content[section] if section else content
        target[name] = value
        file.write_text(json.dumps(content).replace(f'"{value}"', value))
        assert refusal(source=file) == refusal(f"{key}={value}")


def test_an_unknown_tracker_is_reported_before_anything_is_written(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nothing", "../logger/x"):
        assert train(tmp_path / "run", f"logger.tracker={name}") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: logger.tracker = {name!r}")
        assert "none" in line
    assert not (tmp_path / "run").exists()


def test_several_problems_are_reported_together() -> None:
    message = refusal("seed=-1", "trainer.epochs=0")
    assert "seed = -1" in message
    assert "trainer.epochs = 0" in message
    message = refusal("model.width=0", "loss.label_smoothing=3")
    assert "model.width = 0" in message
    assert "loss.label_smoothing = 3" in message


def test_content_that_is_not_settings_is_reported(tmp_path: Path) -> None:
    assert "KEY=VALUE" in refusal("epochs")
    assert "seed = 0 is not a section" in refusal("seed=0", "seed.x=1")
    for name, content in {"list.yaml": "- a\n- b\n", "broken.yaml": "data: [1,\n"}.items():
        (tmp_path / name).write_text(content)
        assert name in refusal(source=tmp_path / name)
    assert "missing.yaml" in refusal(source=tmp_path / "missing.yaml")
    (tmp_path / "half.yaml").write_text("data: {name: synthetic.Synthetic}\n")
    assert "model is missing" in refusal(source=tmp_path / "half.yaml")


# Values


def test_yaml_values_have_the_type_that_they_look_like(tmp_path: Path) -> None:
    file = tmp_path / "numbers.yaml"
    file.write_text(f"{SYNTHETIC.read_text()}name: no\n")
    settings = load_settings(file, ["optimizer.lr=1e-3", "trainer.max_steps=null"])
    assert settings.optimizer.arguments["lr"] == 0.001
    assert settings.trainer.max_steps is None
    assert settings.name == "no"
    assert load_settings(file, ["optimizer.lr=1"]).optimizer.arguments["lr"] == 1.0


def test_the_settings_file_names_the_run_unless_the_settings_do() -> None:
    assert load_settings(SYNTHETIC).name == "synthetic"
    assert load_settings(SYNTHETIC, ["name=other"]).name == "other"


def test_a_new_class_removes_the_arguments_of_the_old_one_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "colours.yaml"
    file.write_text(SYNTHETIC.read_text().replace("ConvNet", "ConvNet\n  mirror: true"))
    changes = ["optimizer.lr=0.5", "optimizer.name=AdamW", "model.freeze=[stage1.*]"]
    settings = load_settings(file, [*changes, "model.name=networks.MLP"])
    assert settings.optimizer.name == "AdamW"
    assert settings.optimizer.arguments["lr"] == 0.5
    assert "momentum" not in settings.optimizer.arguments
    assert settings.model.freeze == ("stage1.*",)
    assert settings.model.arguments == {"width": 512, "classes": None}


def test_naming_the_default_class_keeps_its_arguments(tmp_path: Path) -> None:
    unnamed = load_settings(SYNTHETIC)
    assert unnamed.loss.arguments["label_smoothing"] == 0.1
    assert load_settings(SYNTHETIC, [f"loss.name={unnamed.loss.name}"]).loss == unnamed.loss
    other = load_settings(SYNTHETIC, ["loss.name=CrossEntropyLoss"])
    assert other.loss.arguments["label_smoothing"] == 0.0

    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {SYNTHETIC}\nloss: {{name: {unnamed.loss.name}, ignore_index: 5}}")
    arguments = {"label_smoothing": 0.1, "ignore_index": 5}
    assert load_settings(child).loss.arguments == arguments

    file = tmp_path / "own.yaml"
    file.write_text(SYNTHETIC.read_text().replace("  name: SGD\n", ""))
    settings = load_settings(file, ["optimizer.name=SGD"])
    assert settings.optimizer == load_settings(SYNTHETIC).optimizer


def test_arguments_that_are_not_set_have_their_defaults() -> None:
    settings = load_settings(SYNTHETIC, ["model.name=networks.MLP", "model.width=64"])
    assert settings.model.arguments == {"width": 64, "classes": None}
    assert settings.loss.arguments == {"label_smoothing": 0.1, "ignore_index": -100}


def test_settings_written_as_yaml_are_equal_when_read(tmp_path: Path) -> None:
    changes = [
        "model.freeze=[stage1.*]",
        "data.workers=3",
        "optimizer={name: AdamW, betas: [0.8, 0.99], lr: 1e-3}",
        "scheduler={name: cosine, warmup: 0.1}",
        "trainer.ema=0.99",
        "seed=5",
        "name=the same",
    ]
    settings = load_settings(SYNTHETIC, changes)
    assert settings.scheduler.name == "cosine"
    assert settings.scheduler.warmup == 0.1
    assert settings.scheduler.arguments == {"final": 0.0}
    (tmp_path / "settings.yaml").write_text(to_yaml(settings), encoding="utf-8")
    assert load_settings(tmp_path / "settings.yaml") == settings


def test_the_environment_overrides_the_data_folder_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings(SYNTHETIC).data.root == Path("data")
    monkeypatch.setenv("DATA_ROOT", "/mnt/1e3")
    assert load_settings(SYNTHETIC).data.root == Path("/mnt/1e3")
    assert load_settings(SYNTHETIC, ["data.root=here"]).data.root == Path("here")
    monkeypatch.setenv("DATA_ROOT", "")  # as unset
    assert load_settings(SYNTHETIC).data.root == Path("data")


def test_tilde_is_the_home_folder_in_all_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # on Windows
    file = tmp_path / "settings.yaml"
    file.write_text(f"extends: {SYNTHETIC}\ndata: {{root: ~/sets}}\n", encoding="utf-8")
    sets = "data.validation_sets={other: {file: ~/a.csv}}"
    loaded = load_settings(file, ["model.init_from=~/runs/a", sets])
    assert loaded.data.root == tmp_path / "sets"
    assert loaded.model.init_from == tmp_path / "runs/a"
    assert loaded.data.validation_sets == {"other": {"file": str(tmp_path / "a.csv")}}
    monkeypatch.setenv("DATA_ROOT", "~/from_environment")
    assert load_settings(file).data.root == tmp_path / "from_environment"


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        ("''", "the path is empty"),
        ("' '", "the path is empty"),
        ("~no_such_user/sets", "no such user"),
        ("'~no_such_user'", "no such user"),
        ("$HOME/sets", "$HOME is not replaced"),
        ("'${HOME}/sets'", "${HOME} is not replaced"),
        ("~", "null and ~ stand for no value"),
    ],
)
def test_folder_that_cannot_be_meant_is_refused(root: str, problem: str) -> None:
    message = refusal(f"data.root={root}")
    assert "data.root = " in message
    assert problem in message


def test_existing_folder_may_have_a_dollar_sign_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "$HOME"
    folder.mkdir()
    assert load_settings(SYNTHETIC, [f"data.root={folder}"]).data.root == folder


def test_empty_home_is_not_the_root_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert "HOME is empty" in refusal("data.root=~/sets")


@pytest.mark.parametrize("key", ["data.root", "model.init_from", "trainer.max_steps", "seed"])
def test_key_without_a_value_is_refused(key: str) -> None:
    message = refusal(f"{key}=")
    assert f"{key}= has no value" in message
    assert f"{key}=null" in message


@pytest.mark.parametrize("arguments", ["train --run-dir=", "train --config=", "preview --output="])
def test_empty_path_on_the_command_line_is_refused(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    name, option = arguments.split()
    assert command(name, option) == 2
    message = capsys.readouterr().err
    assert option.rstrip("=") in message
    assert "the path is empty" in message
    assert list(tmp_path.iterdir()) == []


TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["no", "on", "null", "~", "1e-3", "0o7", "007", "1_000", "0x1f", "", " ", "- a", "a: b", "#"]
)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def synthetic_settings() -> Settings:
    return load_settings(SYNTHETIC)


@hypothesis.settings(deadline=None, max_examples=50)
@given(values=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_settings_that_were_written_are_read_with_the_same_values(
    synthetic_settings: Settings, values: dict[str, Any]
) -> None:
    """Of the same type as well: "no" and "1e-3" remain texts."""
    data = synthetic_settings.data.model_copy(update={"validation_sets": {"any": values}})
    written = to_yaml(synthetic_settings.model_copy(update={"data": data}))
    expected = synthetic_settings.model_dump(mode="json")
    expected["data"]["validation_sets"] = {"any": values}
    assert repr(parse(written, "the file")) == repr(expected)


@pytest.mark.parametrize("text", ["no", "on", "1e-3", "0o7", "007", "", "a\x85b", "日本"])
def test_text_in_a_written_settings_file_remains_text(tmp_path: Path, text: str) -> None:
    before = load_settings(SYNTHETIC, [f"checkpoint.monitor={json.dumps(text)}"])
    assert before.checkpoint.monitor == text
    (tmp_path / "settings.yaml").write_text(to_yaml(before), encoding="utf-8")
    assert load_settings(tmp_path / "settings.yaml") == before


# Files that extend one another


def write_files(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")


def test_a_file_can_extend_another_one(tmp_path: Path) -> None:
    content = SYNTHETIC.read_text(encoding="utf-8")
    (tmp_path / "base.yaml").write_text(f"{content}name: base\n", encoding="utf-8")
    write_files(
        tmp_path,
        middle="extends: base.yaml\nmodel: {freeze: [a, b]}\ndata: {batch_size: 32}\n",
        child="extends: middle.yaml\nmodel: {freeze: [c]}\noptimizer: {name: AdamW, lr: 1e-2}\n",
    )
    base = load_settings(tmp_path / "base.yaml")
    child = load_settings(tmp_path / "child.yaml")
    assert child.name == "child"
    assert child.data.batch_size == 32
    assert child.data.name == base.data.name
    assert child.model.freeze == ("c",)  # a list replaces a list
    assert child.optimizer.arguments["lr"] == 0.01
    assert "momentum" not in child.optimizer.arguments  # it belongs to the parent's SGD
    assert child.scheduler == base.scheduler
    assert "extends" not in to_yaml(child)


def test_wrong_parents_of_a_file_are_reported(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        first="extends: second.yaml\n",
        second="extends: first.yaml\n",
        missing="extends: nothing.yaml\n",
        number="extends: 3\n",
    )
    assert "first.yaml extends itself, through second.yaml" in refusal(
        source=tmp_path / "first.yaml"
    )
    assert "nothing.yaml" in refusal(source=tmp_path / "missing.yaml")
    assert "extends = 3" in refusal(source=tmp_path / "number.yaml")


# Resuming

MAY_CHANGE = {
    *("name", "device", "deterministic", "data.root", "data.workers", "data.mirrors"),
    *("model.init_from", "trainer.epochs", "trainer.max_steps", "trainer.early_stop"),
    *("trainer.compile", "trainer.precision", "trainer.non_finite", "trainer.clip_norm"),
    *("trainer.tf32", "trainer.profile", "trainer.strategy", "optimizer.lr"),
    *("optimizer.weight_decay", "data.validation_sets", "trainer.find_unused_parameters"),
    *("trainer.validate_every_epochs", "trainer.validate_every_steps", "trainer.max_minutes"),
}


def without_values(values: Any) -> Any:
    """A checkpoint's settings in which every value differs from the present one."""
    if isinstance(values, dict):
        return {key: without_values(value) for key, value in values.items()}
    return "another value"


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_only_marked_settings_may_change_on_resume(optimizer: str) -> None:
    groups = f"optimizer={{name: {optimizer}, groups: {{'*': {{lr: 1}}}}}}"
    settings = load_settings(SYNTHETIC, [groups])
    values = settings.model_dump(mode="json")
    state = {"settings": without_values(values), "fingerprint": "old"}
    changed = set()
    for text in changes_that_need_force(state, settings, "new"):
        changed.add(text.partition(":")[0])
    expected = {"data"}
    for key, value in values.items():
        inner = [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
        if key not in ("scheduler", "checkpoint", "logger"):
            expected |= set(inner) - MAY_CHANGE
    assert changed == expected


def test_changes_are_reported_with_both_values() -> None:
    settings = load_settings(SYNTHETIC, ["trainer.epochs=3"])
    state = {"settings": settings.model_dump(mode="json"), "fingerprint": "abc"}
    assert changes_that_need_force(state, settings, "abc") == []
    other = load_settings(SYNTHETIC, ["trainer.epochs=9", "seed=4", "model.width=8"])
    changes = changes_that_need_force(state, other, "def")
    assert changes == ["seed: 0 -> 4", "model.width: 32 -> 8", "data: abc -> def"]


def test_settings_that_a_checkpoint_lacks_do_not_count_as_changed() -> None:
    settings = load_settings(SYNTHETIC)
    values = settings.model_dump(mode="json")
    del values["seed"], values["model"]["width"]
    assert changes_that_need_force({"settings": values, "fingerprint": ""}, settings, "") == []


def test_a_constructor_can_mark_its_parameters(add_files: AddFiles) -> None:
    code = """
    from typing import Annotated
    from config.schema import MayChangeOnResume
    class Net(Base):
        def __init__(
            self, a: Annotated[int, MayChangeOnResume()] = 1, b: int = 2
        ) -> None:
            super().__init__()
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    before = load_settings(SYNTHETIC, ["model.name=my.Net"])
    state = {"settings": before.model_dump(mode="json"), "fingerprint": ""}
    after = load_settings(SYNTHETIC, ["model.name=my.Net", "model.a=5", "model.b=5"])
    assert changes_that_need_force(state, after, "") == ["model.b: 2 -> 5"]


# Settings of classes


def subclasses(base: type) -> Iterator[type]:
    direct: list[type] = base.__subclasses__()
    for cls in direct:
        yield cls
        yield from subclasses(cls)


def parameters_of(cls: type) -> set[str]:
    """The keyword arguments of a class whose constructor passes ``**kwargs`` to its bases."""
    names: set[str] = set()
    for owner in cls.__mro__:
        signature = inspect.signature(owner)
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        names |= signature.parameters.keys()
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return names - {"args", "kwargs"}


@pytest.mark.parametrize("section", [DataSettings, ModelSettings, TrainerSettings])
def test_settings_are_the_parameters_of_the_constructor(section: type[ClassSection]) -> None:
    base = PACKAGES[section.package]
    listing = list_classes(section.package, base)
    assert listing.failures == {}
    found = {*listing.classes.values()}
    for cls in subclasses(base):
        if cls.__module__ in ("processes", "test_metrics"):
            found.add(cls)
    for cls in found:
        assert constructor_parameters(cls).keys() == parameters_of(cls)
        settings = class_settings(cls, section, cls.__name__)
        names = settings.fields.keys() | settings.unusable.keys()
        assert names == parameters_of(cls) - section.given
    for name, cls in listing.classes.items():
        settings = class_settings(cls, section, name)
        assert settings.unusable == {}
        for argument, field in settings.fields.items():
            assert field.description, f"{name}: {argument} is not described"


MODEL = """
from typing import Any
from base.base_model import BaseModel

class Base(BaseModel):
    def forward(self, input):
        return input
"""
Case = tuple[str, list[str], dict[str, Any]]
CASES: dict[str, Case] = {  # code of model/my.py, which defines Net; settings; arguments
    "inherited constructor": (
        """
        class Parent(Base):
            def __init__(self, dataset, width: int = 3) -> None:
                super().__init__()
                self.got = {"width": width}
        class Net(Parent):
            pass
        """,
        ["width=4"],
        {"width": 4},
    ),
    "three classes": (
        """
        class First(Base):
            def __init__(self, *, a: int, b: int = 2) -> None:
                super().__init__()
                self.got = {"a": a, "b": b}
        class Second(First):
            def __init__(self, *, c: int = 3, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.got["c"] = c
        class Net(Second):
            def __init__(self, d: int = 4, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.got["d"] = d
        """,
        ["a=10", "c=30"],
        {"a": 10, "b": 2, "c": 30, "d": 4},
    ),
    "class without constructor between": (
        """
        class First(Base):
            def __init__(self, a: int = 1) -> None:
                super().__init__()
                self.got = {"a": a}
        class Second(First):
            pass
        class Net(Second):
            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**kwargs)
        """,
        ["a=2"],
        {"a": 2},
    ),
    "other default in the subclass": (
        """
        class Parent(Base):
            def __init__(self, a: int = 1) -> None:
                super().__init__()
                self.got = {"a": a}
        class Net(Parent):
            def __init__(self, a: int = 7, **kwargs: Any) -> None:
                super().__init__(a=a, **kwargs)
        """,
        [],
        {"a": 7},
    ),
    "base as attribute of a module": (
        """
        from base import base_model
        class Net(base_model.BaseModel):
            def __init__(self, a: int = 1) -> None:
                super().__init__()
                self.got = {"a": a}
            def forward(self, input):
                return input
        """,
        ["a=2"],
        {"a": 2},
    ),
    "nested dataclass": (
        """
        from dataclasses import dataclass
        @dataclass
        class Block:
            width: int
            kernel: tuple[int, int] = (3, 3)
        class Net(Base):
            def __init__(self, block: Block = Block(8)) -> None:
                super().__init__()
                assert isinstance(block, Block)
                self.got = {"block": (block.width, block.kernel)}
        """,
        ["block={width: 4, kernel: [5, 5]}"],
        {"block": (4, (5, 5))},
    ),
    "generic class": (
        """
        from typing import Generic, TypeVar
        T = TypeVar("T")
        class Parent(Base, Generic[T]):
            def __init__(self, a: int = 1, values: list[int] | None = None) -> None:
                super().__init__()
                self.got = {"a": a, "values": values}
        class Net(Parent[float]):
            pass
        """,
        ["values=[1, 2]"],
        {"a": 1, "values": [1, 2]},
    ),
    "decorated constructor": (
        """
        import functools
        def logged(init):
            @functools.wraps(init)
            def wrapper(*args, **kwargs):
                return init(*args, **kwargs)
            return wrapper
        class Net(Base):
            @logged
            def __init__(self, dataset, a: int = 1) -> None:
                super().__init__()
                self.got = {"a": a}
        """,
        ["a=2"],
        {"a": 2},
    ),
    "nested class": (
        """
        class Outer:
            class Inner(Base):
                def __init__(self, a: int = 1) -> None:
                    super().__init__()
                    self.got = {"a": a}
        Net = Outer.Inner
        """,
        ["a=2"],
        {"a": 2},
    ),
    "default that is an expression": (
        """
        from pathlib import Path
        SIZE = 2 ** 5
        class Net(Base):
            def __init__(self, a: int = 2 * SIZE, b: Path = Path("x") / "y") -> None:
                super().__init__()
                self.got = {"a": a, "b": b}
        """,
        [],
        {"a": 64, "b": Path("x/y")},
    ),
    "constraints and plain types": (
        """
        from pathlib import Path
        from typing import Annotated, Literal
        from pydantic import Field
        class Net(Base):
            def __init__(
                self,
                a: Annotated[int, Field(ge=0)],
                b: tuple[float, ...] = (),
                c: Literal["x", "y"] = "x",
                d: Path | None = None,
                e: dict[str, int] = {},
            ) -> None:
                super().__init__()
                self.got = {"a": a, "b": b, "c": c, "d": d, "e": e}
        """,
        ["a=0", "b=[1, 2]", "c=y", "d=some/file", "e={k: 1}"],
        {"a": 0, "b": (1.0, 2.0), "c": "y", "d": Path("some/file"), "e": {"k": 1}},
    ),
    "names that pydantic uses itself": (
        """
        class Net(Base):
            def __init__(self, copy: bool = False, model_dump: int = 1, _b: int = 2) -> None:
                super().__init__()
                self.got = {"copy": copy, "model_dump": model_dump, "_b": _b}
        """,
        ["copy=true", "model_dump=3"],
        {"copy": True, "model_dump": 3, "_b": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_constructor_gets_the_settings(add_files: AddFiles, case: str) -> None:
    code, changes, expected = CASES[case]
    add_files({"model/my.py": MODEL + dedent(code)})
    settings = load_settings(SYNTHETIC, ["model.name=my.Net", *(f"model.{c}" for c in changes)])
    assert settings.model.arguments.keys() == expected.keys()
    model: Any = construct(settings.model, BaseModel, dataset=None)
    assert model.got == expected
    again = load_settings(settings.model_dump(mode="json"))
    assert again == settings


def test_annotations_that_are_text_are_evaluated(add_files: AddFiles) -> None:
    code = """
    from __future__ import annotations
    from typing import TYPE_CHECKING, Annotated
    from pydantic import Field
    from base.base_model import BaseModel
    if TYPE_CHECKING:
        from nowhere import Thing

    class Net(BaseModel):
        def __init__(
            self, thing: Thing | None = None, a: Annotated[int, Field(ge=1)] = 3
        ) -> None:
            super().__init__()
            self.got = (thing, a)
        def forward(self, input):
            return input
    """
    add_files({"model/my.py": code})
    settings = load_settings(SYNTHETIC, ["model.name=my.Net", "model.a=5"])
    assert settings.model.arguments == {"a": 5}
    model: Any = construct(settings.model, BaseModel)
    assert model.got == (None, 5)
    assert "model.a = 0" in refusal("model.name=my.Net", "model.a=0")
    message = refusal("model.name=my.Net", "model.thing=1")
    assert message.startswith("model.thing: the parameter `thing` of my.Net")
    assert "Thing" in message


def test_a_trainer_and_its_loss_may_be_named_in_any_order(
    add_files: AddFiles, tmp_path: Path
) -> None:
    code = "from trainer.classifier import Classifier\n\n\nclass Mine(Classifier):\n    pass\n"
    add_files({"trainer/my.py": code})
    changes = ["trainer.name=my.Mine", "loss.name=cross_entropy"]
    settings = load_settings(SYNTHETIC, changes)
    assert settings.loss.arguments["label_smoothing"] == 0.0  # the default of cross_entropy
    assert load_settings(SYNTHETIC, changes[::-1]) == settings

    sections = ["trainer: {name: my.Mine}", "loss: {name: cross_entropy}"]
    for order in (sections, sections[::-1]):
        child = tmp_path / "synthetic.yaml"
        child.write_text("\n".join([f"extends: {SYNTHETIC}", *order]))
        assert load_settings(child) == settings


DATASET = """
from dataclasses import dataclass
from pathlib import Path
import torch
from base.base_dataset import BaseDataset
"""


def test_a_data_set_may_be_a_dataclass(add_files: AddFiles) -> None:
    code = """
    from dataclasses import InitVar, field

    @dataclass(eq=False)
    class Points(BaseDataset):
        root: Path
        split: str | None
        seed: int
        size: int = 3
        sizes: list[int] = field(default_factory=lambda: [1, 2])
        scale: InitVar[float] = 2.0

        def __post_init__(self, scale):
            self.scaled = scale * self.size
        def __len__(self):
            return self.size
        def __getitem__(self, index):
            return {"input": torch.zeros(1)}
    """
    add_files({"data_loader/mine.py": DATASET + dedent(code)})
    names = ["data.name=mine.Points", "data.size=5"]
    settings = load_settings(SYNTHETIC, names)
    assert settings.data.arguments == {"size": 5, "scale": 2.0}  # not that of a factory
    data: Any = construct(settings.data, BaseDataset, root=Path("r"), split="train", seed=1)
    assert (data.root, data.split, data.seed, data.scaled) == (Path("r"), "train", 1, 10)
    assert data.sizes == [1, 2]
    settings = load_settings(SYNTHETIC, [*names, "data.sizes=[7]", "data.scale=1"])
    data = construct(settings.data, BaseDataset, root=Path("r"), split="train", seed=1)
    assert (data.sizes, data.scaled) == ([7], 5)


def test_classes_in_folders_and_imported_by_their_init_file_are_found(add_files: AddFiles) -> None:
    code = """
    class Scans(BaseDataset):
        def __init__(self, root: Path, split: str | None, seed: int, size: int = 3) -> None:
            self.size = size
        def __len__(self):
            return self.size
        def __getitem__(self, index):
            return {"input": torch.zeros(1)}
    """
    add_files(
        {
            "data_loader/medical/__init__.py": "from data_loader.medical.scans import Scans\n",
            "data_loader/medical/scans.py": DATASET + dedent(code),
            "data_loader/other/scans.py": DATASET + dedent(code),
        }
    )
    for name in ("medical.scans.Scans", "medical.Scans", "other.scans.Scans"):
        settings = load_settings(SYNTHETIC, [f"data.name={name}", "data.size=4"])
        data = construct(settings.data, BaseDataset, root=Path(), split=None, seed=0)
        assert len(data) == 4
    listed = list_classes("data_loader", BaseDataset).classes
    assert {"medical.scans.Scans", "other.scans.Scans"} <= listed.keys()
    assert "data_loader/medical/" in refusal("data.name=medical.Nothing")


REFUSED = {  # signature, setting, parts of the message
    "no annotation": ("size=3", "size", ["no type annotation", "size: int = 3"]),
    "no annotation, no default": ("size", "size", ["no type annotation", "size: int"]),
    "tensor": ("size: Tensor | None = None", "size", ["Tensor", "not a plain type"]),
    "module": ("size: nn.Module = nn.ReLU()", "size", ["Module", "not a plain type"]),
    "positional-only": ("size: int = 3, /", "size", ["positional-only"]),
    "as in all models": ("freeze: int = 3, size: int = 3", "sizes", ["did you mean model.size?"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_parameter_that_cannot_be_set_is_reported_with_the_reason(
    add_files: AddFiles, case: str
) -> None:
    signature, key, parts = REFUSED[case]
    code = f"""
    from torch import Tensor, nn
    class Net(Base):
        def __init__(self, {signature}) -> None:
            super().__init__()
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    message = refusal("model.name=my.Net", f"model.{key}=3")
    assert f"model.{key}" in message
    for part in parts:
        assert part in message


def test_a_required_parameter_that_cannot_be_set_is_reported_before_anything_is_built(
    add_files: AddFiles,
) -> None:
    code = """
    class Net(Base):
        def __init__(self, dataset, size, width: int) -> None:
            super().__init__()
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    message = refusal("model.name=my.Net")
    assert "model.size: the parameter `size` of my.Net has no type annotation" in message
    assert "model.width is missing" in message


def test_a_default_that_yaml_cannot_express_stays_with_the_constructor(add_files: AddFiles) -> None:
    code = """
    import math
    class Net(Base):
        def __init__(
            self, a: Any = object, b: float = math.inf, c: int = None, d: int = 4
        ) -> None:
            super().__init__()
            self.got = (a, b, c, d)
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    settings = load_settings(SYNTHETIC, ["model.name=my.Net"])
    assert settings.model.arguments == {"d": 4}
    model: Any = construct(settings.model, BaseModel)
    assert model.got == (object, float("inf"), None, 4)
    settings = load_settings(SYNTHETIC, ["model.name=my.Net", "model.b=2", "model.c=1"])
    model = construct(settings.model, BaseModel)
    assert model.got == (object, 2.0, 1, 4)


def test_a_subclass_may_fix_an_argument_of_its_base(add_files: AddFiles) -> None:
    code = """
    from model.networks import MLP
    class Wide(MLP):
        def __init__(self, dataset, **kwargs: Any) -> None:
            super().__init__(dataset, width=64, **kwargs)
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    settings = load_settings(SYNTHETIC, ["model.name=my.Wide", "model.classes=3"])
    data = load_section("data", DataSettings, {"name": "synthetic.Synthetic"})
    samples = fit_dataset(construct(data, BaseDataset, root=Path(), split="train", seed=0))
    model = construct(settings.model, BaseModel, dataset=samples)
    assert model.state_dict()["layers.1.weight"].shape[0] == 64
    settings = load_settings(SYNTHETIC, ["model.name=my.Wide", "model.width=3"])
    with pytest.raises(UserError, match=r"my\.Wide cannot be built: TypeError.*width"):
        construct(settings.model, BaseModel, dataset=samples)


def test_what_code_passes_reaches_the_constructors_that_accept_it(add_files: AddFiles) -> None:
    code = """
    class Nothing(Base):
        pass
    class Few(Base):
        def __init__(self, dataset) -> None:
            super().__init__()
            self.got = {"dataset": dataset}
    class All(Base):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__()
            self.got = kwargs
    class Chain(Few):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    expected = {"Few": {"dataset": 1}, "Chain": {"dataset": 1}, "All": {"dataset": 1, "more": 2}}
    for name, got in expected.items():
        section = load_section("model", ModelSettings, {"name": f"my.{name}"})
        model: Any = construct(section, BaseModel, dataset=1, more=2)
        assert model.got == got
    construct(load_section("model", ModelSettings, {"name": "my.Nothing"}), BaseModel, dataset=1)


def test_classes_that_cannot_be_used_are_reported(add_files: AddFiles) -> None:
    code = """
    import os
    from torch import nn
    from base.base_dataset import BaseDataset
    class Other(nn.Module):
        pass
    class Abstract(BaseModel):
        pass
    function = len
    """
    add_files({"model/my.py": MODEL + dedent(code), "model/_hidden.py": MODEL})
    assert "does not derive from BaseModel" in refusal("model.name=my.Other")
    assert "does not derive from BaseModel" in refusal("model.name=my.BaseDataset")
    message = refusal("model.name=my.Abstract")
    assert "abstract" in message
    assert "forward" in message
    for name in ("my.function", "my.os.path", "my.nn.Linear", "my", "my.", "_hidden.Base", "x.y"):
        message = refusal(f"model.name='{name}'")
        assert message.startswith(f'model.name = "{name}": ')
        assert "networks.MLP" in message
    for name in ("../model/my.Base", "..my.Base", "/my.Base", "my/../my.Base", "os.system"):
        assert "networks.MLP" in refusal(f"model.name='{name}'")


def test_a_class_of_another_kind_is_reported_with_file_class_and_base(add_files: AddFiles) -> None:
    code = """
    from torch import nn
    class Other(nn.Module):
        pass
    """
    add_files({"model/my.py": code, "trainer/my.py": code, "data_loader/my.py": code})
    bases = {"data_loader": "BaseDataset", "model": "BaseModel", "trainer": "BaseTrainer"}
    for section in (DataSettings, ModelSettings, TrainerSettings):
        key = section_name(section)
        expected = f"{section.package}/my.py: Other does not derive from {bases[section.package]}"
        assert refusal(f"{key}.name=my.Other") == f'{key}.name = "my.Other": {expected}'


def test_what_is_no_class_is_reported_with_what_it_is(add_files: AddFiles) -> None:
    code = """
    import os
    def build(dataset):
        return Base()
    net = Base()
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    kinds = {"build": "function", "net": "object of the class Base", "os": "module"}
    for name, kind in kinds.items():
        message = refusal(f"model.name=my.{name}")
        assert message.startswith(f'model.name = "my.{name}": model/my.py: {name} is a')
        assert kind in message
        assert "BaseModel" in message


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("model.name=MLP", "networks.MLP"),
        ("model.name=Convnet", "networks.ConvNet"),
        ("model.name=networks.mlp", "networks.MLP"),
        ("model.name=network.MLP", "networks.MLP"),
        ("model.name=curves.MLP", "networks.MLP"),
        ("trainer.name=Classifer", "classifier.Classifier"),
        ("data.name=synthetic", "synthetic.Synthetic"),
        ("scheduler.name=schedules.cosin", "schedules.cosine"),
    ],
)
def test_a_wrong_name_of_a_class_is_reported_with_the_right_one(name: str, right: str) -> None:
    assert f"did you mean {right}?" in refusal(name)


USERS_FILES = {
    "data_loader/my.py": """
    from data_loader import synthetic
    class Synthetic(synthetic.Synthetic):
        pass
    """,
    "model/my.py": """
    from torch import nn
    from model.networks import ConvNet, MLP
    class SoftCrossEntropy(nn.Module):
        pass
    class Hinge(nn.MultiMarginLoss):
        pass
    class ConvNetz(ConvNet):
        pass
    class MLP(MLP):
        pass
    def poly(logits, target, epsilon: float = 1.0):
        return logits
    """,
    "optim/my.py": """
    from torch import optim
    class Lion(optim.SGD):
        pass
    class SGD(optim.SGD):
        pass
    def triangle(progress: float) -> float:
        return progress
    """,
}


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("data.name=synthetic", "synthetic.Synthetic"),
        ("data.name=Synthetic", "my.Synthetic or synthetic.Synthetic"),
        ("data.name=my", "my.Synthetic"),
        ("data.name=mi.Synthetic", "my.Synthetic or synthetic.Synthetic"),
        ("model.name=Convnet", "networks.ConvNet"),
        ("model.name=ConvNetz", "my.ConvNetz"),
        ("model.name=networks.mlp", "networks.MLP"),
        ("optimizer.name=my.Lionn", "my.Lion"),
        ("optimizer.name=lion", "my.Lion"),
        ("optimizer.name=SDG", "SGD or my.SGD"),
        ("scheduler.name=triangle", "my.triangle"),
        ("scheduler.name=wave.triangle", "my.triangle"),
        ("scheduler.name=my.cosine", "cosine"),
        ("loss.name=my.polly", "my.poly"),
        ("loss.name=SoftCrossEntropy", "my.SoftCrossEntropy"),
        ("loss.name=my.SoftCrosEntropy", "my.SoftCrossEntropy"),
        ("loss.name=hinge", "my.Hinge"),
    ],
)
def test_classes_and_functions_of_the_user_are_suggested_where_they_are_closer(
    add_files: AddFiles, name: str, right: str
) -> None:
    add_files(USERS_FILES)
    assert f"did you mean {right}?" in refusal(name)


def test_letter_case_does_not_mislead_a_suggestion() -> None:
    assert "did you mean RMSprop?" in refusal("optimizer.name=Rmsprop")


def test_an_empty_extends_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("extends:\n")
    assert "extends = None" in refusal(source=file)


def test_a_name_that_is_no_schedule_is_reported_with_those_of_the_file() -> None:
    message = refusal("scheduler.name=schedules.xyz")
    assert "optim/schedules.py has no function or class xyz" in message
    assert "schedules.cosine" in message


def test_a_schedule_is_no_optimizer() -> None:
    message = refusal("optimizer.name=schedules.cosine")
    assert "optim/schedules.py: cosine is a function" in message
    assert "Optimizer" in message


BROKEN = {
    "syntax error": ("class Net(BaseModel:\n", "SyntaxError"),
    "import error": ("import nothing_of_this_name\n", "nothing_of_this_name"),
    "other error": ("1 / 0\n", "ZeroDivisionError"),
    "exit": ("raise SystemExit(3)\n", "SystemExit"),
    "null bytes": ("\0", "null bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_imported_matters_only_if_it_is_named(
    add_files: AddFiles, case: str
) -> None:
    code, part = BROKEN[case]
    add_files({"model/broken.py": code, "data_loader/broken.py": code})
    settings = load_settings(SYNTHETIC, ["model.width=3"])
    assert settings.model.arguments["width"] == 3
    assert "networks.MLP" in refusal("model.name=networks.Nothing")
    message = refusal("model.name=broken.Net")
    assert "model/broken.py cannot be imported" in message
    assert part in message
    listing = list_classes("model", BaseModel)
    assert "networks.MLP" in listing.classes
    assert part in listing.failures["model/broken.py"]


def test_a_failing_constructor_is_reported_with_the_class_and_the_line(add_files: AddFiles) -> None:
    code = """
    class Net(Base):
        def __init__(self, a: int = 1) -> None:
            raise ValueError("a is odd")
    """
    add_files({"model/my.py": MODEL + dedent(code)})
    section = load_section("model", ModelSettings, {"name": "my.Net"})
    with pytest.raises(UserError, match=r"my\.Net cannot be built: ValueError: a is odd.*line"):
        construct(section, BaseModel)


# The commands


def test_errors_in_the_schemas_settings_are_reported_without_importing_torch() -> None:
    code = "import sys, train\ntry: train.main()\nfinally: print('torch' in sys.modules)"
    changes = (
        "logger.every=1",
        "sed=1",
        "epochs=3",
        "trainer.epochs=0",
        "data.workers=-1",
        "data=3",
    )
    for change in changes:
        done = run_python("-c", code, change)
        assert done.stdout == "False\n"
        assert change.partition("=")[0] in done.stderr


def test_invalid_settings_exit_with_2_and_create_no_run_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    for change in ("trainer.epoch=3", "optimizer.lrr=3"):
        done = run_python("train.py", "--config", str(SYNTHETIC), "--run-dir", folder, change)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: unknown setting")
        assert "did you mean" in line
        assert not (tmp_path / "run").exists()


def test_settings_that_fail_when_they_are_used_create_no_run_folder(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for change in (
        "device=cuda:99",
        "device=GPU one",
        "checkpoint.monitor=acuracy",
        "model.freeze=[steam.*]",
        "model.init_from=nothing",
        "model.classes=5",
    ):
        assert train(tmp_path / "run", change) == 2
        assert "error: " in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


def schema_keys() -> Iterator[str]:
    """The names of all settings in the schema."""
    for name, field in Settings.model_fields.items():
        section = section_type(field)
        if section is None:
            yield name
            continue
        for inner in section.model_fields:
            yield f"{name}.{inner}"


def test_help_lists_every_setting(add_files: AddFiles, capsys: pytest.CaptureFixture[str]) -> None:
    add_files({"model/broken.py": "class Net(:\n", "data_loader/broken.py": "1 / 0\n"})
    train = importlib.import_module("train")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["train.py", "--help"])
        train.main()
    assert stop.value.code == 0
    text = capsys.readouterr().out
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("  ")}
    assert set(schema_keys()) <= listed
    for section in (DataSettings, ModelSettings, TrainerSettings):
        for name, cls in list_classes(section.package, section.base).classes.items():
            assert name in text
            for argument in class_settings(cls, section, name).fields:
                key = re.escape(f"{section_name(section)}.{argument}")
                assert re.search(rf"  {key}  \(([^;]*, )?{re.escape(name)}[;,]", text)
    for once in ("data.root ", "trainer.epochs ", "optimizer.name ", "scheduler.name "):
        assert text.count(f"\n  {once}") == 1
    assert "model.width  (networks.ConvNet; integer >= 1; default 32)" in text
    assert "model/broken.py cannot be imported: SyntaxError" in text
    assert "data_loader/broken.py cannot be imported: ZeroDivisionError" in text


def section_name(section: type[ClassSection]) -> str:
    return {"data_loader": "data"}.get(section.package, section.package)


def test_help_describes_inherited_parameters_as_their_base_class_does(
    add_files: AddFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    code = '''
    class Parent(Base):
        """Base.

        Args:
            width: Units of a layer,
                in the parent.
            depth (int): Layers.

        Raises:
            UserError: never.
        """
        def __init__(self, width: int = 3, depth: int = 2) -> None:
            super().__init__()
    class Net(Parent):
        """Net.

        Args:
            more: Something else.
        """
        def __init__(self, more: int = 3, **kwargs: Any) -> None:
            super().__init__(**kwargs)
    '''
    add_files({"model/my.py": MODEL + dedent(code)})
    cls = find_class("model", "my.Net", BaseModel)
    fields = class_settings(cls, ModelSettings, "my.Net").fields
    meanings = {name: field.description for name, field in fields.items()}
    parent = "Units of a layer, in the parent."
    assert meanings == {"more": "Something else.", "width": parent, "depth": "Layers."}


def test_the_schema_for_editors_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("config.__main__").main()
    written = (ROOT / "config/schema.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == written, "run: python -m config > config/schema.json"
    assert json.loads(written)["properties"].keys() == {*Settings.model_fields, "extends"}
