"""Settings in a wrong place, under another name or as options: the message names the right one."""
# ruff: noqa: D103  the names of the tests state what they test

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CONFIG

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def refusal(command: Command, capsys: Captured, tmp_path: Path) -> Callable[..., str]:
    """``refusal("lr=0.1")``: what train.py prints about arguments that it does not accept."""

    def run(*arguments: str, config: Path = CONFIG) -> str:
        folder = tmp_path / "run"
        assert command("train", "--config", config, "--run-dir", folder, *arguments) == 2
        assert not folder.exists()
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert len(lines) <= 2
        assert lines[0].startswith("error: ")
        return printed.err.rstrip()

    return run


MISPLACED = {
    # without a section
    "lr=0.1": "optimizer.lr",
    "epochs=3": "trainer.epochs",
    "batch_size=64": "data.batch_size",
    "width=64": "model.width",
    "rise=0.1": "scheduler.rise",
    # with the name that another library uses
    "learning_rate=0.1": "optimizer.lr",
    "optimizer.learning_rate=0.1": "optimizer.lr",
    "optimizer.wd=0.1": "optimizer.weight_decay",
    "data.bs=64": "data.batch_size",
    "data.num_workers=2": "data.workers",
    "trainer.max_epochs=3": "trainer.epochs",
    # in the wrong section
    "trainer.lr=0.1": "optimizer.lr",
    "logger.lr=0.1": "optimizer.lr",
    "trainer.learning_rate=0.1": "optimizer.lr",
    "model.batch_size=64": "data.batch_size",
    "optimizer.warmup=0.1": "scheduler.warmup",
    "trainer.seed=3": "seed",
    # in no section, and misspelled
    "momentun=0.5": "optimizer.momentum",
}


@pytest.mark.parametrize("argument", MISPLACED)
def test_a_setting_in_a_wrong_place_is_reported_with_the_right_one(
    refusal: Callable[..., str], argument: str
) -> None:
    message = refusal(argument)
    key = argument.partition("=")[0]
    assert message.startswith(f"error: unknown setting {key};")
    assert message.endswith(f" {MISPLACED[argument]}?")


def test_arguments_are_those_of_the_classes_that_the_settings_name(
    refusal: Callable[..., str],
) -> None:
    assert "did you mean model.mirror?" in refusal("trainer.mirror=true")
    assert "model." not in refusal("trainer.mirror=true", "model.name=networks.MLP")
    message = refusal("scheduler={name: cosine_restarts}", "optimizer.cycles=3")
    assert "did you mean scheduler.cycles?" in message
    assert "scheduler." not in refusal("optimizer.cycles=3")


def test_all_sections_with_a_setting_are_named(refusal: Callable[..., str]) -> None:
    assert "checkpoint.every_steps or logger.every_steps" in refusal("every_steps=3")


def test_settings_in_a_wrong_place_of_a_file_are_reported(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "wrong.yaml"
    for line, right in {"lr: 1": "optimizer.lr", "epochs: 3": "trainer.epochs"}.items():
        file.write_text(f"{CONFIG.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
        assert f"did you mean {right}?" in refusal(config=file)


OPTIONS = {
    ("--epochs", "3"): "trainer.epochs=3",
    ("--epochs=3",): "trainer.epochs=3",
    ("--trainer.epochs", "3"): "trainer.epochs=3",
    ("--trainer.epochs=3",): "trainer.epochs=3",
    ("--lr", "-0.1"): "optimizer.lr=-0.1",
    ("--lr=0.1",): "optimizer.lr=0.1",
    ("--optimizer.lr", "1e-3", "seed=3"): "optimizer.lr=1e-3",
    ("--batch-size", "64"): "data.batch_size=64",
    ("--learning-rate", "0.1"): "optimizer.lr=0.1",
    ("--width", "8"): "model.width=8",
    ("--seed", "3"): "seed=3",
    ("--optimizer", "Adam"): "optimizer.name=Adam",
    ("--compile", "seed=3"): "trainer.compile=VALUE",
    ("--freeze", "[a, b]"): "'model.freeze=[a, b]'",  # as a shell needs it
}


@pytest.mark.parametrize("arguments", OPTIONS)
def test_an_option_that_is_a_setting_is_reported_as_key_and_value(
    refusal: Callable[..., str], arguments: tuple[str, ...]
) -> None:
    message = refusal(*arguments)
    option = arguments[0].partition("=")[0]
    assert message.startswith(f"error: unknown option {option};")
    assert "KEY=VALUE" in message
    assert message.endswith(f" {OPTIONS[arguments]}")


def test_several_options_are_reported_together(refusal: Callable[..., str]) -> None:
    message = refusal("--epochs", "3", "seed=1", "--lr", "0.1")
    assert "trainer.epochs=3" in message
    assert "optimizer.lr=0.1" in message


def test_a_misspelled_option_is_reported_with_the_right_one(refusal: Callable[..., str]) -> None:
    assert "did you mean --resume?" in refusal("--rseume", "last")
    assert "--help" in refusal("--qqqq")


def test_options_of_the_other_commands_are_explained_as_well(
    trained_run: Path, command: Command, capsys: Captured
) -> None:
    for arguments in (["evaluate", trained_run], ["preview", "--config", CONFIG]):
        assert command(*arguments, "--batch-size", "64") == 2
        assert "data.batch_size=64" in capsys.readouterr().err


CLASSES = {
    "data": "synthetic.Synthetic",
    "model": "networks.MLP",
    "trainer": "classifier.Classifier",
    "optimizer": "Adam",
    "scheduler": "cosine",
}


@pytest.mark.parametrize("section", CLASSES)
def test_a_class_instead_of_a_section_is_reported_with_the_setting_for_it(
    refusal: Callable[..., str], tmp_path: Path, section: str
) -> None:
    name = CLASSES[section]
    expected = f'error: {section} = "{name}" is not a section; use {section}.name={name}'
    assert refusal(f"{section}={name}") == expected
    lines = [f"{key}: {{name: {CLASSES[key]}}}" for key in CLASSES if key != section]
    (tmp_path / "text.yaml").write_text("\n".join([*lines, f"{section}: {name}"]))
    assert refusal(config=tmp_path / "text.yaml") == expected
    # A setting of this section on the command line gives the same advice.
    assert expected.removeprefix("error: ") in refusal(
        f"{section}.x=1", config=tmp_path / "text.yaml"
    )


def test_another_value_instead_of_a_section_is_reported_with_its_settings(
    refusal: Callable[..., str],
) -> None:
    for value in ("often", "3", "[1]"):
        message = refusal(f"checkpoint={value}")
        assert message.startswith("error: checkpoint = ")
        assert "every_steps" in message
    assert "logger.every_steps" in refusal("logger=null")


def test_a_key_with_three_parts_is_reported_with_the_value_to_set(
    refusal: Callable[..., str],
) -> None:
    assert "data.validation_sets={a: {shift: VALUE}}" in refusal("data.validation_sets.a.shift=1")
    assert "model.block={width: VALUE}" in refusal("model.block.width=4")
