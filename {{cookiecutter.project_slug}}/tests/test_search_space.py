"""The search space of a sweep: ranges, their errors, and the check against the settings."""
# ruff: noqa: D103  the names of the tests say what they test

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG

from config.reading import read_file
from experiments.ranges import Choices, FloatRange, IntRange, Range, parse_range
from experiments.search_space import check_search_space, make_search_space, to_overrides
from experiments.sweep_plan import continue_plan, hide_password, make_plan, save_plan
from sweep import continue_command, warn_about_sweep_file
from utils.errors import UserError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("log(1e-4, 1e-1)", FloatRange(1e-4, 0.1, log=True)),
        (" uniform( -1 , 2.5 ) ", FloatRange(-1.0, 2.5, log=False)),
        ("int(2, 8)", IntRange(2, 8)),
        ("range(3)", Choices((0, 1, 2))),
        ("range(8, 2, -3)", Choices((8, 5))),
        (["SGD", None, 0.5], Choices(("SGD", None, 0.5))),
        ([[32, 64], [32]], Choices(([32, 64], [32]))),
        ("networks.MLP", None),
        (0.1, None),
        ({"lr": [1, 2]}, None),
        ("demo (2)", None),
    ],
)
def test_a_range_is_read(written: Any, expected: Range | None) -> None:
    assert parse_range("model.width", written) == expected


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("log(0, 1)", "greater than 0"),
        ("log(1, 0.1)", "below"),
        ("uniform(2, 2)", "below"),
        ("log(0.1)", "both ends"),
        ("log(1, 2, 3)", "both ends"),
        ("log(1, 2", "log(1e-4, 1e-1)"),
        ("log(1, high=2)", "only numbers"),
        ("log(1, 1e999)", "only numbers"),
        (f"int(1, 1{400 * '0'})", "only numbers"),
        ("int(1, 2.5)", "whole numbers"),
        ("int(true, 4)", "only numbers"),
        ("uniform(__import__('os').getpid(), 9)", "only numbers"),
        ("lgo(1, 2)", "did you mean log"),
        ("Range(3)", "did you mean range"),
        ("loguniform(1e-4, 1)", "did you mean log?"),
        ("choice(1, 2)", "[a, b, c]"),
        ("gelu(tanh)", '["gelu(tanh)"]'),
        ("log(1, 0.1", "end with a parenthesis"),
        ("range(0)", "no values"),
        ("range(1.5)", "whole numbers"),
        ("range(1, 2, 0)", "whole numbers"),
        ("range(1000000000000000000000)", "int(a, b)"),
        ([], "no values"),
        ([3, 4, 3], "3 occurs twice"),
    ],
)
def test_an_invalid_range_is_an_error(written: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_range("model.width", written)
    message = str(caught.value)
    assert message.startswith("model.width = ")
    assert words in message
    assert len(message.splitlines()) == 1


def test_settings_are_searched_repeated_or_fixed() -> None:
    values = {"a.b": [1, 2], "c.d": "x", "seed": "range(2)", "e.f": ["y", "z"]}
    space = make_search_space(values)
    assert space.fixed == {"c.d": "x"}
    assert space.repeated_settings() == [{"seed": 0}, {"seed": 1}]
    assert space.grid_size() == 4
    assert [space.combination(index) for index in range(4)] == [
        {"a.b": 1, "e.f": "y"},
        {"a.b": 1, "e.f": "z"},
        {"a.b": 2, "e.f": "y"},
        {"a.b": 2, "e.f": "z"},
    ]
    assert make_search_space({"a.b": "int(1, 2)"}).grid_size() is None


@pytest.mark.parametrize("key", ["seed", "data.fold", "data.seed"])
def test_what_compare_averages_is_repeated_in_a_sweep(key: str) -> None:
    space = make_search_space({key: [0, 1], "a.b": [1, 2]})
    assert (list(space.ranges), list(space.repetitions)) == (["a.b"], [key])


def test_a_grid_may_have_more_combinations_than_memory() -> None:
    """Other methods ask for its size, too."""
    lists = {f"a.{name}": "range(1000)" for name in "bcdefg"}
    space = make_search_space(lists)
    assert space.grid_size() == 10**18
    assert space.combination(10**18 - 1) == dict.fromkeys(lists, 999)
    ranges = [f"{key}={value}" for key, value in lists.items()]
    plan = make_plan({"config": CONFIG, "trials": 10}, ranges)
    assert (plan.options.method, plan.trial_count) == ("tpe", 10)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": "int(0, 9)", "a.b": [1]}, "range(3)"),
        ({"checkpoint.monitor": ["loss", "accuracy"]}, "checkpoint.monitor"),
        ({"a.b": 1}, "no range"),
    ],
)
def test_an_impossible_search_space_is_an_error(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_search_space(values)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "k=0.001"),
        (None, "k=null"),
        (True, "k=true"),
        ("SGD", "k=SGD"),
        ("true", 'k="true"'),
        ("", 'k=""'),
        ([1, "a b"], 'k=[1, "a b"]'),
        ("한국어", "k=한국어"),
    ],
)
def test_values_are_written_as_train_reads_them(value: Any, text: str) -> None:
    assert to_overrides({"k": value}) == [text]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model.widht": [4, 8]}, "did you mean model.width"),
        ({"model.width": [4, 8, "wide"]}, "model.width = "),
        ({"model.width": "uniform(4, 8)"}, "model.width = 4.0"),
        ({"optimizer.momentum": "uniform(0, 0.9)", "optimizer.name": ["SGD", "AdamW"]}, "momentum"),
        ({"seed": "range(-1, 2)"}, "seed = -1"),
        ({"model.width": ["range(3)"], "seed": "range(2)"}, "model.width = "),
    ],
)
def test_values_that_the_settings_refuse_are_an_error(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_search_space(make_search_space(values), read_file(CONFIG))
    assert words in str(caught.value)
    assert "a trial with " in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"model.width": [*range(1, 15), 0], "data.batch_size": [*range(1, 9)]},
        {"optimizer.weight_decay": "uniform(-1, 0.9)"},
        {"data.batch_size": "int(8, 10000000000)"},
    ],
)
def test_all_values_of_large_grids_and_both_ends_are_checked(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        check_search_space(make_search_space(values), read_file(CONFIG))


def test_a_sweep_file_is_merged_with_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "sweeps/넓이 a.yaml"
    file.parent.mkdir()
    file.write_text(
        "config: ../c.yaml\ntrials: 3\njobs: 2\nranges:\n  optimizer: {lr: 'log(0.1, 1)'}\n"
        "  model.width: [4, 8]\n"
    )
    (tmp_path / "c.yaml").write_text("seed: 3")
    plan = make_plan({"config": file, "trials": 5}, ["model.width=16", "seed=range(2)"])
    assert plan.folder == Path("runs/넓이 a")
    assert plan.config.resolve() == tmp_path / "c.yaml"
    assert plan.settings["seed"] == 3
    assert plan.space.ranges == {"optimizer.lr": FloatRange(0.1, 1.0, log=True)}
    assert plan.space.fixed == {"model.width": 16}
    assert plan.options.jobs == 2
    assert plan.options.method == "tpe"
    assert plan.trial_count == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("trails: 3\nranges: {model.width: [4, 8]}", "did you mean trials"),
        ("model.width: [4, 8]", "below the key ranges"),
        ("ranges: [4, 8]", "ranges must contain"),
        ("jobs: 0\nranges: {model.width: [4, 8]}", "--jobs"),
        ("trials: many\nranges: {model.width: [4, 8]}", "--trials"),
        ("method: gird\nranges: {model.width: [4, 8]}", "--method"),
        ("method: grid\nranges: {model.width: 'int(4, 8)'}", "needs lists"),
        ("ranges: {model.width: 'int(4, 8)'}", "no end"),
        ("halving: 3\ntrials: 2\nranges: {model.width: 'int(4, 8)'}", "--halving"),
        ("name: a/b\nranges: {model.width: [4, 8]}", "--name"),
        ('name: "a\\n"\nranges: {model.width: [4, 8]}', "--name"),
        ("config: 5\nranges: {model.width: [4, 8]}", "--config = 5"),
    ],
)
def test_an_invalid_sweep_file_is_an_error(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "sweeps/width.yaml"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        make_plan({"config": file}, [])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("trials", "method"), [(None, "grid"), (4, "grid"), (9, "grid"), (3, "tpe")]
)
def test_lists_are_a_grid_unless_there_are_too_few_trials(trials: int | None, method: str) -> None:
    options: dict[str, Any] = {"config": CONFIG}
    if trials is not None:
        options["trials"] = trials
    plan = make_plan(options, ["model.width=[4,8]", "optimizer.lr=[0.1,1]"])
    assert plan.options.method == method
    assert plan.trial_count == min(trials or 4, 4)


def test_a_folder_continues_only_the_same_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"config": CONFIG, "name": "a"}
    plan = make_plan(options, ["model.width=[4,8]", "optimizer.lr=[0.10, 1]"])
    plan.folder.mkdir(parents=True)
    save_plan(plan)
    same = make_plan({**options, "jobs": 3}, ["optimizer.lr=[1e-1,1]", "model.width=[4, 8]"])
    assert list(continue_plan(same).space.ranges) == ["model.width", "optimizer.lr"]
    assert make_plan({"name": "a"}, []).space == plan.space
    for changes, words in (
        (["model.width=[4,9]", "optimizer.lr=[0.1,1]"], "model.width: [4, 8] -> [4, 9]"),
        (["model.width=[4,8]"], "optimizer.lr: [0.1, 1] -> none"),
        (["model.width=[4,8]", "optimizer.lr=[0.1,1]", "seed=[1]"], "seed: none -> [1]"),
    ):
        with pytest.raises(UserError) as caught:
            continue_plan(make_plan(options, changes))
        assert words in str(caught.value)
        assert "--name a alone" in str(caught.value)


def test_the_password_of_the_database_is_neither_saved_nor_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"config": CONFIG, "name": "a"}
    url = "postgresql://me:se:c/ret@host/db"
    ranges = ["model.width=[4,8]"]
    plan = make_plan({**options, "storage": url}, ranges)
    plan.folder.mkdir(parents=True)
    save_plan(plan)
    saved = (plan.folder / "sweep.yaml").read_text()
    assert "postgresql://me:***@host/db" in saved
    assert continue_plan(plan).options.storage == url
    assert continue_command(plan).endswith("--storage 'postgresql://me:***@host/db'")
    with pytest.raises(UserError, match=r"--storage = postgresql://me:\*\*\*@host/db"):
        make_plan({"name": "a"}, [])
    with pytest.raises(UserError) as caught:
        continue_plan(make_plan({**options, "storage": url.replace("db", "other")}, ranges))
    assert "storage: " in str(caught.value)
    for text in (saved, str(caught.value)):
        assert not any(part in text for part in ("se:", "c/ret"))


@pytest.mark.parametrize(
    "url", ["sqlite:///a.db", "postgresql+psycopg://host:5432/db", "mysql://me@host/db"]
)
def test_a_url_without_a_password_is_unchanged(url: str) -> None:
    assert hide_password(url) == url


def test_successive_halving_keeps_its_number_of_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise trials that it has stopped would have to be trained on."""
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"config": CONFIG, "name": "a", "halving": 2, "trials": 4}
    options["method"] = "random"
    ranges = ["optimizer.lr=log(0.1, 1)"]
    plan = make_plan(options, ranges)
    plan.folder.mkdir(parents=True)
    save_plan(plan)
    with pytest.raises(UserError, match="trials: 4 -> 8"):
        continue_plan(make_plan({**options, "trials": 8}, ranges))


def test_a_sweep_file_that_was_edited_after_the_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config/sweeps/rate.yaml"
    file.parent.mkdir(parents=True)
    settings = "config: ../synthetic.yaml\nranges:\n  model.width: [4, 8]\n"
    shutil.copy(CONFIG, tmp_path / "config")
    file.write_text(f"{settings}  optimizer.lr: [0.1, 0.2]\n")
    plan = make_plan({"name": "rate"}, [])
    plan.folder.mkdir(parents=True)
    save_plan(plan)
    warn_about_sweep_file(make_plan({"name": "rate"}, []))
    assert capsys.readouterr().err == ""
    file.write_text(f"{settings}  optimizer.lr: [0.1, 0.3]\n")
    again = make_plan({"name": "rate"}, [])
    assert again.space == plan.space
    warn_about_sweep_file(again)
    warning = capsys.readouterr().err
    assert "config/sweeps/rate.yaml" in warning
    assert "optimizer.lr" in warning
    assert "model.width" not in warning
    assert "--name" in warning


@pytest.mark.parametrize(("trials", "method"), [(None, "grid"), (2, "tpe")])
def test_other_trials_do_not_change_the_method_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int | None, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"config": CONFIG, "name": "a"}
    if trials is not None:
        options["trials"] = trials
    ranges = ["model.width=[4,8,16]"]
    plan = make_plan(options, ranges)
    assert plan.options.method == method
    plan.folder.mkdir(parents=True)
    save_plan(plan)
    for count in (1, 9):
        continued = continue_plan(make_plan({**options, "trials": count}, ranges))
        assert continued.options.method == method
        assert continued.options.trials == count
