"""Settings: where they come from, what is checked, and what the errors say."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from config import help as reference
from config.help import complete, find_classes
from config.loading import load_settings, to_yaml
from config.schema import AdamW, Cosine, ModelSettings, Section, Settings
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
SYNTHETIC = ROOT / "config/synthetic.yaml"


def refusal(*changes: str, source: Path = SYNTHETIC) -> str:
    """What is said about settings that are not accepted."""
    with pytest.raises(UserError) as error:
        load_settings(source, changes)
    assert error.value.exit_code == 2
    return str(error.value)


def arguments_of(settings: Settings) -> dict[str, Any]:
    """What the model's constructor is given."""
    return settings.model.model_dump(include=settings.model.arguments)


# What is refused


def test_without_the_name_of_the_default_settings_a_command_says_so(tmp_path: Path) -> None:
    for folder in ("config", "storage", "utils"):  # all would be gigabytes, with an environment
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "train.py", tmp_path)
    (tmp_path / "config/default.txt").unlink()
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True
    )
    texts = [done.stderr]
    for name in ("", "config/synthetic.yaml"):
        (tmp_path / "config/default.txt").write_text(name)
        done = subprocess.run(
            [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True
        )
        texts.append(done.stderr)
        assert done.returncode == 2
    for text in texts:
        assert text.startswith("error: cannot read the settings file")
        assert "synthetic.yaml" in text
        assert "default.txt names the default" in text


def test_a_misspelt_name_is_answered_with_the_nearest_one() -> None:
    for wrong, right in {
        "seeds": "seed",
        "trainer.epoch": "trainer.epochs",
        "optimizer.momentun": "optimizer.momentum",
        "model.widht": "model.width",
        "trainr.epochs": "trainer",
    }.items():
        assert f"did you mean {right}?" in refusal(f"{wrong}=3")


WRONG = (  # setting, value, what is said to be allowed
    ("name", "..", "pattern"),
    ("data.workers", "1000000", "1024"),
    ("trainer.epochs", "many", "integer"),
    ("trainer.epochs", "2.5", "integer"),
    ("trainer.epochs", "0", "greater than or equal to 1"),
    ("trainer.ema", "1.0", "less than 1"),
    ("trainer.precision", "fp8", "'auto', 'fp32', 'bf16' or 'fp16'"),
    ("trainer.compile", "1", "boolean"),
    ("trainer.name", "classifier.Nothing", "classifier.Classifier"),
    ("logger.tensorboard", "no", "boolean"),
    ("optimizer.name", "Adam", "'AdamW'"),
    ("optimizer.lr", "fast", "number"),
    ("optimizer.lr", "-0.1", "greater than 0"),
    ("model.name", "os.system", "networks.MLP"),
    ("model.width", "wide", "integer"),
    ("model.freeze", "stage1.*", "a valid list [a, b]"),
)


def test_a_wrong_value_is_told_with_its_setting_and_what_is_allowed() -> None:
    for key, value, allowed in WRONG:
        setting, _, said = refusal(f"{key}={value}").partition(": ")
        assert setting in (f"{key} = {value}", f'{key} = "{value}"', f"{key} = '{value}'")
        assert allowed in said


def test_yaml_and_command_line_are_told_the_same(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    for key, value, _ in WRONG:
        content: dict[str, Any] = {
            "data": {"name": "synthetic.Synthetic"},
            "model": {"name": "networks.ConvNet"},
            "trainer": {"name": "classifier.Classifier"},
            "optimizer": {"name": "SGD"},
            "logger": {},
        }
        section, _, name = key.rpartition(".")
        (content[section] if section else content)[name] = value
        file.write_text(json.dumps(content).replace(f'"{value}"', value))
        assert refusal(source=file) == refusal(f"{key}={value}")


def test_a_tracker_that_the_project_lacks_is_told_before_anything_is_written(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nothing", "../logger/x"):
        assert train(tmp_path / "run", f"logger.tracker={name}") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: logger.tracker = {name!r}: here it is one of none")
    assert not (tmp_path / "run").exists()


def test_several_mistakes_are_told_at_once() -> None:
    message = refusal("seed=-1", "trainer.epochs=0")
    assert "seed = -1" in message
    assert "trainer.epochs = 0" in message


def test_what_is_no_setting_at_all_is_refused(tmp_path: Path) -> None:
    assert "KEY=VALUE" in refusal("epochs")
    assert "seed = '0' holds no further settings" in refusal("seed=0", "seed.x=1")
    for name, content in {"list.yaml": "- a\n- b\n", "broken.yaml": "data: [1,\n"}.items():
        (tmp_path / name).write_text(content)
        assert name in refusal(source=tmp_path / name)
    assert "missing.yaml" in refusal(source=tmp_path / "missing.yaml")
    (tmp_path / "half.yaml").write_text("data: {name: synthetic.Synthetic}\n")
    assert "model is missing" in refusal(source=tmp_path / "half.yaml")
    assert "optimizer.name is missing" in refusal("optimizer={lr: 3}")
    assert "optimizer.nesterov; see --help" in refusal("optimizer={name: AdamW, nesterov: true}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "def __init__(self, width: int = SIZE) -> None:",
            "Net has the default SIZE; write a plain",
        ),
        ("def __init__(self, width: int = 4 8) -> None:", "mine.py is not Python: "),
    ],
)
def test_a_class_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    (tmp_path / "model").mkdir()
    text = f"class Net(BaseModel):\n    {line}\n        self.width = width\n"
    (tmp_path / "model/mine.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    find_classes.cache_clear()
    with pytest.raises(UserError, match=message):
        complete(ModelSettings, "mine.Net")
    find_classes.cache_clear()


# What is understood


def test_numbers_and_words_are_what_they_look_like(tmp_path: Path) -> None:
    file = tmp_path / "numbers.yaml"
    file.write_text(f"{SYNTHETIC.read_text()}name: no\n")
    settings = load_settings(file, ["optimizer.lr=1e-3", "trainer.max_steps=null"])
    assert settings.optimizer.lr == 0.001
    assert settings.trainer.max_steps is None
    assert settings.name == "no"
    assert load_settings(file, ["optimizer.lr=1"]).optimizer.lr == 1.0


def test_a_run_is_named_after_its_settings_file() -> None:
    assert load_settings(SYNTHETIC).name == "synthetic"
    assert load_settings(SYNTHETIC, ["name=other"]).name == "other"


def test_a_new_class_drops_the_settings_of_the_old_one_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "colours.yaml"
    file.write_text(SYNTHETIC.read_text().replace("ConvNet", "ConvNet\n  mirror: true"))
    changes = ["optimizer.lr=0.5", "optimizer.name=AdamW", "model.freeze=[stage1.*]"]
    settings = load_settings(file, [*changes, "model.name=networks.MLP"])
    assert settings.optimizer == AdamW(lr=0.5)
    assert settings.model.freeze == ("stage1.*",)
    assert arguments_of(settings) == {"width": 512, "classes": None}


def test_the_arguments_of_a_class_are_settings_with_their_defaults() -> None:
    changes = ["model.name=networks.MLP", "model.width=64"]
    arguments = arguments_of(load_settings(SYNTHETIC, changes))
    assert arguments == {"width": 64, "classes": None}


def test_settings_written_as_yaml_are_the_same_when_read(tmp_path: Path) -> None:
    changes = [
        "model.freeze=[stage1.*]",
        "data.workers=3",
        "optimizer={name: AdamW, betas: [0.8, 0.99], lr: 1e-3}",
        "scheduler={name: cosine, warmup: 0.1}",
        "trainer.ema=0.99",
        "seed=5",
        "name=the same",
    ]
    for source in (ROOT / "config").glob("*.yaml"):
        settings = load_settings(source, changes)
        assert settings.scheduler == Cosine(warmup=0.1)
        (tmp_path / "settings.yaml").write_text(to_yaml(settings), encoding="utf-8")
        assert load_settings(tmp_path / "settings.yaml") == settings


def test_the_environment_says_where_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(SYNTHETIC).data.root == Path("data")
    monkeypatch.setenv("DATA_ROOT", "/mnt/1e3")
    assert load_settings(SYNTHETIC).data.root == Path("/mnt/1e3")
    assert load_settings(SYNTHETIC, ["data.root=here"]).data.root == Path("here")


# The command


def test_bad_settings_end_the_command_with_2_and_leave_no_run_folder(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", "--config", str(SYNTHETIC), "--run-dir"]
    done = subprocess.run(
        [*command, str(tmp_path / "run"), "trainer.epoch=3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == ("error: unknown setting trainer.epoch; did you mean trainer.epochs?\n")
    assert not (tmp_path / "run").exists()


def test_settings_that_only_fail_when_they_are_used_leave_no_run_folder_either(
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


def fields(schema: type[Section], prefix: str = "") -> Iterator[str]:
    """The names of all settings, and with them those of the sections."""
    for name, field in schema.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from fields(kind, f"{prefix}{name}.")


def test_help_lists_every_setting_without_importing_torch() -> None:
    code = "import sys, train\ntry: train.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "False"
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    sections = {"data", "model", "trainer", "optimizer", "scheduler", "checkpoint", "logger"}
    assert set(fields(Settings)) - sections <= listed
    assert {"model.width", "model.mirror"} <= listed
    for once in ("data.root ", "trainer.epochs ", "optimizer.name ", "scheduler.name "):
        assert done.stdout.count(f"  {once}") == 1


def test_the_schema_for_editors_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("config")
    written = (ROOT / "config/schema.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == written, "run: python -m config > config/schema.json"
    assert json.loads(written)["properties"].keys() == Settings.model_fields.keys()
