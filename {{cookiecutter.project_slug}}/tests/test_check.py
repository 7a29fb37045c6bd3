"""check.py names each fault that users plant, reports no others, and leaves no trace."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, QUICK_SETTINGS
from torch.nn import functional

from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from checks import batch_size, overfit
from checks.batch_size import find_knee, measure_sizes
from checks.duplicates import check_duplicates
from checks.gradients import check_gradients
from checks.independence import check_independence
from checks.initial_loss import check_loss
from checks.labels import find_offset
from checks.outputs import accuracy_of
from checks.overfit import Attempt, check_overfit
from checks.ranges import distance_from_normal
from checks.rate import ShortTraining, judge_rate
from checks.samples import Reading
from checks.verdict import Skipped, Verdict
from checks.waiting import judge_waiting
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier
from utils.nested import digest

DATA = """
import time
from pathlib import Path

import numpy as np
import torch

from base.base_dataset import BaseDataset
from data_loader.synthetic import Synthetic
from utils.randomness import make_generator


class Plain(Synthetic):
    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        self.change(root, split, seed)

    def change(self, root, split, seed):
        pass


class Shuffled(Plain):
    def change(self, root, split, seed):
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(1))
        self.targets = self.targets[order]


class Raw(Plain):
    def transform(self, batch, rng):
        return {**batch, "input": batch["input"].float()}


class Leak(Plain):
    def change(self, root, split, seed):
        if split == "validation":
            other = Plain(root, "train", seed)
            self.images[:20] = other.images[:20]


class Constant(Plain):
    def change(self, root, split, seed):
        self.targets = 0 * self.targets


class Sorted(Plain):
    def change(self, root, split, seed):
        order = self.targets.argsort(stable=True)
        self.images = self.images[order]
        self.targets = self.targets[order]


class Broken(Plain):
    def __getitem__(self, index):
        if int(index) == 78:
            raise ValueError("damaged")
        return super().__getitem__(index)


class Unseeded(Plain):
    def transform(self, batch, rng):
        noise = np.random.default_rng().normal(size=batch["input"].shape)
        return {**batch, "input": torch.tensor(noise, dtype=torch.float32)}


class Slow(Plain):
    def transform(self, batch, rng):
        if rng is not None:
            time.sleep(0.1)
        return super().transform(batch, rng)


class Twice(Plain):
    def change(self, root, split, seed):
        self.images[1::2] = self.images[:-1:2]


class NotANumber(Plain):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if int(index) == 78:
            sample["input"] = sample["input"] * float("nan")
        return sample


class OffByOne(Plain):
    def change(self, root, split, seed):
        self.targets = torch.randint(10, (len(self),), generator=make_generator(seed))
        self.images = torch.zeros(len(self), 1, 28, 28, dtype=torch.uint8)
        for index, target in enumerate(self.targets.tolist()):
            self.images[index, 0, target] = 255
        wrong = torch.arange(len(self)) % 10 < 3
        self.targets = (self.targets + wrong.long()) % 10


class Numbers(BaseDataset):
    in_memory = True
    fitted = ("mean", "std")

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        rng = make_generator(seed, *(split or "").encode())
        self.seed = seed
        self.x = torch.randn(300, 4, generator=rng)
        self.y = self.x.sum(1, keepdim=True)

    def fit(self):
        self.mean = self.x.mean(0).tolist()
        self.std = self.x.std(0).tolist()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"input": self.x[index], "target": self.y[index]}

    def transform(self, batch, rng):
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return {**batch, "input": (batch["input"] - mean) / std}


class ShuffledNumbers(Numbers):
    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        self.y = self.y.roll(1, 0)


class TestStatistics(Numbers):
    def fit(self):
        test = Numbers(Path(), "test", self.seed)
        test.fit()
        self.mean = test.mean
        self.std = test.std
"""
MODEL = """
import torch
from torch import nn
from torch.nn.functional import dropout

from base.base_model import BaseModel


class Plain(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)
        self.change()

    def change(self):
        pass

    def forward(self, input):
        return self.head(self.body(input))


class FrozenHead(Plain):
    def change(self):
        self.head.requires_grad_(False)


class Softmax(Plain):
    def forward(self, input):
        return super().forward(input).softmax(1)


class Reshape(Plain):
    def forward(self, input):
        features = self.body(input)
        return self.head(features.T.reshape(features.shape))


class BatchStatistics(Plain):
    def change(self):
        self.norm = nn.BatchNorm1d(32, track_running_stats=False)

    def forward(self, input):
        return self.head(self.norm(self.body(input)))


class Dropout(Plain):
    def forward(self, input):
        return self.head(dropout(self.body(input), 0.5))


class Detached(Plain):
    def forward(self, input):
        return self.head(self.body(input).detach())


class TwoHeads(Plain):
    def change(self):
        self.unused = nn.Linear(32, 10)


class Dead(Plain):
    def change(self):
        nn.init.constant_(self.body[1].bias, -1e4)


class NormalizedInModel(Plain):
    def forward(self, input):
        return super().forward((input - 127) / 76)


class SoftmaxOverBatch(Plain):
    def forward(self, input):
        return super().forward(input).softmax(0)


class NormInTraining(Plain):
    def change(self):
        self.norm = nn.BatchNorm1d(32)

    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, input):
        return self.head(self.norm(self.body(input)))


class Numbers(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, input):
        return self.layers(input)
"""
TRAINER = """
from base.base_trainer import BaseTrainer


class Numbers(BaseTrainer):
    default_loss = "mse"

    def training_step(self, model, batch):
        return {"loss": self.loss(model(batch["input"]), batch["target"])}

    def evaluation_step(self, model, batch):
        return self.training_step(model, batch)
"""
MLP = "model={name: networks.MLP}"
NUMBERS = (
    "model.name=faults.Numbers trainer.name=faults.Numbers 'loss={name: mse}' "
    "checkpoint.monitor=loss"
)
# A check, the settings with the fault, and what the line about it contains.
FAULTS = [
    ("independence", "data.name=faults.Shuffled", "shuffled"),
    ("independence", "model.name=faults.Reshape", "reshape"),
    ("independence", "model.name=faults.BatchStatistics", "norm (BatchNorm1d)"),
    ("independence", "model.name=faults.Dropout", "dropout"),
    ("gradients", "model.name=faults.FrozenHead", "head"),
    ("gradients", "model.name=faults.Detached", "body.1.weight"),
    ("gradients", "model.name=faults.TwoHeads", "unused.weight"),
    ("overfit", "model.name=faults.Dead", "body.1.weight"),
    ("loss", "model.name=faults.Softmax", "softmax"),
    ("data", "data.name=faults.Raw", "not normalised"),
    ("data", "data.name=faults.Leak", "20 of 210 validation samples"),
    ("data", "data.name=faults.Constant", "0 degrees"),
    ("data", "data.name=faults.Sorted data.sampler=sequential", "data.sampler=shuffled"),
    ("data", "data.name=faults.Broken", "sample 78"),
    ("determinism", "data.name=faults.Unseeded", "batches differ"),
    ("rate", "optimizer.lr=5", "optimizer.lr = 5 is too high"),
    ("gradients", "optimizer.maximize=true", "gradient ascent"),
    ("gradients", "optimizer.lr=300", "optimizer.lr is too high"),
    ("independence", "model.name=faults.SoftmaxOverBatch", "softmax"),
    ("independence", "model.name=faults.NormInTraining", "norm (BatchNorm1d)"),
    ("independence", "data.name=faults.OffByOne", "of the training labels are +1"),
    ("data", "data.name=faults.Twice", "395 of 790 training samples are copies"),
    ("data", "data.name=faults.NotANumber", "NaN or infinity: sample 78"),
    ("independence", f"{NUMBERS} data.name=faults.ShuffledNumbers", "shuffled"),
    ("data", f"{NUMBERS} data.name=faults.TestStatistics", "samples of test"),
]
MakeTrainer = Callable[..., BaseTrainer]


@pytest.fixture
def check(
    few_files: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """``check("--part", "data")``: the exit code and the output of check.py."""
    (few_files / "data_loader/faults.py").write_text(DATA, encoding="utf-8")
    (few_files / "model/faults.py").write_text(MODEL, encoding="utf-8")
    (few_files / "trainer/faults.py").write_text(TRAINER, encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        settings = (*QUICK_SETTINGS, "data.name=faults.Plain", "model.name=faults.Plain")
        exit_code = command("check", "--config", CONFIG, *settings, *arguments)
        output = capsys.readouterr()
        return exit_code, output.out + output.err

    return run


@pytest.mark.parametrize(("part", "settings", "named"), FAULTS)
def test_a_fault_is_named(
    check: Callable[..., tuple[int, str]], part: str, settings: str, named: str
) -> None:
    exit_code, output = check("--part", part, *shlex.split(settings))
    (line,) = output.splitlines()
    assert exit_code == 1
    assert line.startswith(part)
    assert "FAILED" in line
    assert named in line


def test_a_slow_loader_is_named(check: Callable[..., tuple[int, str]]) -> None:
    _, output = check("--part", "workers", "data.name=faults.Slow")
    assert "bottleneck" in output  # how slow it is depends on what else the machine does


@pytest.mark.parametrize(("fraction", "status"), [(0.2, "ok"), (0.6, "warning"), (0.9, "FAILED")])
def test_waiting_for_the_loader_is_judged(
    make_trainer: MakeTrainer, fraction: float, status: str
) -> None:
    verdict = Verdict("workers")
    judge_waiting(verdict, make_trainer(), needed=2, fraction=fraction)
    assert verdict.status == status
    assert ("data.workers=" in verdict.describe()) == (status != "ok")


def test_a_project_without_faults_passes(check: Callable[..., tuple[int, str]]) -> None:
    exit_code, output = check("--part", "data,loss,overfit,gradients,independence,determinism")
    assert exit_code == 0
    assert [line.split()[1] for line in output.splitlines()] == 6 * ["ok"]


def test_a_model_may_normalise_its_inputs_itself(check: Callable[..., tuple[int, str]]) -> None:
    settings = ["data.name=faults.Raw", "model.name=faults.NormalizedInModel"]
    exit_code, output = check("--part", "data", *settings)
    assert exit_code == 0
    assert "warning" in output
    assert "not normalised" in output


def test_numbers_without_faults_pass(check: Callable[..., tuple[int, str]]) -> None:
    settings = shlex.split(f"{NUMBERS} data.name=faults.Numbers")
    exit_code, output = check("--part", "data,loss,overfit,independence", *settings)
    assert exit_code == 0
    assert [line.split()[1] for line in output.splitlines()] == 4 * ["ok"]


def test_the_results_are_also_json(check: Callable[..., tuple[int, str]]) -> None:
    exit_code, output = check("optimizer.lr=5", "--part=rate,loss,rate", "--json")
    result = json.loads(output[output.index("{") :])
    rate, loss = result["checks"]
    assert exit_code == 1
    assert result["failed"]
    assert (rate["name"], rate["verdict"]) == ("rate", "FAILED")
    assert 0 < rate["figures"]["proposal"] < 5
    assert Path("check/rate.png").is_file()
    assert loss["failures"] == []


def test_if_the_sanity_check_fails_only_the_data_are_checked(
    check: Callable[..., tuple[int, str]],
) -> None:
    exit_code, output = check("checkpoint.monitor=speed", "--part=loss,data", "--json")
    sanity, data = json.loads(output[output.index("{") :])["checks"]
    assert exit_code == 1
    assert (sanity["name"], sanity["verdict"]) == ("sanity", "FAILED")
    assert "checkpoint.monitor = 'speed'" in sanity["failures"][0]
    assert (data["name"], data["verdict"]) == ("data", "ok")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--part", "data,wokers"], "workers"),
        (["--part", ","], "determinism"),
        (["optimizer.lrr=1"], "optimizer.lr"),
    ],
)
def test_invalid_arguments_are_named(
    check: Callable[..., tuple[int, str]], arguments: list[str], named: str
) -> None:
    exit_code, output = check(*arguments)
    assert exit_code == 2
    assert named in output
    assert list(Path().iterdir()) == []


def test_checks_leave_no_trace(
    check: Callable[..., tuple[int, str]], train: Callable[..., int], tmp_path: Path
) -> None:
    def weights_of(run: Path) -> str:
        assert train(run, "trainer.max_steps=4") == 0
        return digest(load_checkpoint(run / "checkpoints/last.pt")["model"])

    before = weights_of(tmp_path / "first")
    check("--part", "data,overfit,gradients,independence,determinism")
    assert {path.name for path in tmp_path.iterdir()} == {"first"}
    assert weights_of(tmp_path / "second") == before


# Faults of trainers


class ForgottenZeroGrad(Classifier):
    """Adds up the gradients of all steps."""

    def update(self, step: Step) -> dict[str, Any]:
        (batch,) = step.batches
        outputs = self.training_step(self.parallel_model, batch)
        outputs["loss"].backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return outputs


class OwnUpdate(ForgottenZeroGrad):
    """Discards the gradients first."""

    def update(self, step: Step) -> dict[str, Any]:
        self.model.zero_grad()
        return super().update(step)


class SoftmaxInStep(Classifier):
    """Applies the softmax before the cross entropy."""

    def training_step(self, model: Any, batch: Any) -> dict[str, Any]:
        return {"loss": self.loss(model(batch["input"]).softmax(1), batch["target"])}


class MixedSamples(Classifier):
    """Compares the outputs for a sample with the target of another one."""

    def training_step(self, model: Any, batch: Any) -> dict[str, Any]:
        return {"loss": self.loss(model(batch["input"]).flip(0), batch["target"].roll(1))}


class Summed(Classifier):
    """Sums the loss up over the samples."""

    def training_step(self, model: Any, batch: Any) -> dict[str, Any]:
        loss = self.loss(model(batch["input"]), batch["target"])
        return {"loss": loss * len(batch["target"])}


class Negated(Classifier):
    """Maximises the loss."""

    def training_step(self, model: Any, batch: Any) -> dict[str, Any]:
        return {"loss": -super().training_step(model, batch)["loss"]}


class NegatedBackward(Classifier):
    """Maximises the loss, and returns it as it is."""

    def update(self, step: Step) -> dict[str, Any]:
        (batch,) = step.batches
        self.model.zero_grad()
        outputs = self.training_step(self.parallel_model, batch)
        (-outputs["loss"]).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return outputs


class SoftmaxOverBatch(Classifier):
    """Applies the softmax over the samples."""

    def training_step(self, model: Any, batch: Any) -> dict[str, Any]:
        return {"loss": self.loss(model(batch["input"]).softmax(0), batch["target"])}


class Cheating(Classifier):
    """Predicts the target."""

    def evaluation_step(self, model: Any, batch: Any) -> None:
        answers = functional.one_hot(batch["target"], len(self.dataset.classes)).float()
        self.metrics.update(answers.sum(1), answers, batch["target"])


@pytest.mark.parametrize(
    ("kind", "check"),
    [(Negated, check_loss), (Negated, check_overfit), (NegatedBackward, check_overfit)],
)
def test_gradient_ascent_is_found(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaseTrainer],
    check: Callable[..., Verdict],
) -> None:
    monkeypatch.setattr(overfit, "STEPS", 30)
    (failure,) = check(make_trainer(MLP, kind=kind)).failures
    assert "sign" in failure


def test_a_metric_that_uses_the_target_is_found(make_trainer: MakeTrainer) -> None:
    (failure,) = check_independence(make_trainer(MLP, kind=Cheating)).failures
    assert "accuracy is 1.00 with shuffled labels" in failure


@pytest.mark.parametrize(("kind", "fails"), [(ForgottenZeroGrad, True), (OwnUpdate, False)])
def test_gradients_of_several_steps_are_found(
    make_trainer: MakeTrainer, kind: type[BaseTrainer], fails: bool
) -> None:
    failures = " ".join(check_gradients(make_trainer(kind=kind)).failures)
    assert ("zero_grad" in failures) == fails


@pytest.mark.parametrize("kind", [SoftmaxInStep, SoftmaxOverBatch])
def test_a_softmax_in_the_training_step_is_found(
    make_trainer: MakeTrainer, kind: type[BaseTrainer]
) -> None:
    (failure,) = check_loss(make_trainer("loss.label_smoothing=0.0", kind=kind)).failures
    assert "softmax" in failure


@pytest.mark.parametrize("kind", [MixedSamples, Summed])
def test_a_loss_that_is_no_mean_over_samples_is_found(
    make_trainer: MakeTrainer, kind: type[BaseTrainer]
) -> None:
    (failure,) = check_independence(make_trainer(kind=kind)).failures
    assert "mean of the losses of its samples" in failure


def test_checks_of_competing_losses_are_skipped(make_trainer: MakeTrainer) -> None:
    class TwoOptimizers(Classifier):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers() + super().configure_optimizers()

    with pytest.raises(Skipped, match="2 optimizers"):
        check_loss(make_trainer(kind=TwoOptimizers))


# Parts


def test_a_verdict_is_its_worst_finding() -> None:
    verdict = Verdict("data", figures={"samples": 1200})
    assert verdict.status == "ok"
    assert "samples 1,200" in verdict.describe()
    verdict.warnings.append("rare")
    assert verdict.status == "warning"
    verdict.failures.append("first line\nsecond line")
    assert verdict.status == "FAILED"
    assert len(verdict.describe().splitlines()) == 1


def test_batch_sizes_reach_the_one_in_the_settings(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "MAX_BATCH_SIZE", 32)
    speeds, is_full = measure_sizes(make_trainer(), configured=50)
    assert {8, 16, 32, 50} <= set(speeds)
    assert not is_full


def test_the_knee_is_the_smallest_fast_batch() -> None:
    assert find_knee({8: 100.0, 16: 190.0, 32: 290.0, 64: 300.0}) == 32


@pytest.mark.parametrize(
    ("mean", "std", "is_far"),
    [(0, 1, False), (0.3, 0.35, False), (127, 75, True), (0, 1e-3, True), (5, 1, True)],
)
def test_inputs_far_from_mean_0_and_std_1_are_found(mean: float, std: float, is_far: bool) -> None:
    assert (distance_from_normal(mean, std) > 1) == is_far


def test_words_that_are_equal_by_chance_are_only_a_warning() -> None:
    verdict = Verdict("data")
    reading = Reading(4, 4, targets=[0, 1, 0, 1], hashes=["a", "a", "a", "b"])
    check_duplicates(verdict, {"train": reading})
    assert verdict.status == "warning"
    assert "2 of 4 training samples" in verdict.describe()
    reading.discrete = False
    check_duplicates(verdict, {"train": reading})
    assert verdict.status == "FAILED"


@pytest.mark.parametrize(
    ("wrong", "offset"),
    [({0: 1, 1: 2, 2: 3, 3: 0}, 1), ({1: 0, 2: 1, 3: 2, 0: 3}, -1), ({0: 1}, 0)],
)
def test_labels_that_are_off_by_a_number_are_found(wrong: dict[int, int], offset: int) -> None:
    labels = torch.arange(400) % 4
    predicted = labels.clone()
    for index in range(80):
        label = int(labels[index])
        labels[index] = wrong.get(label, label)
    assert find_offset(predicted, labels, classes=4)[0] == offset


@pytest.mark.parametrize(
    ("steps", "loss", "status"),
    [(40, 3.0, "FAILED"), (20, 3.0, "warning"), (20, math.nan, "FAILED"), (40, 1.0, "ok")],
)
def test_a_rate_is_not_judged_after_few_steps(steps: int, loss: float, status: str) -> None:
    verdict = Verdict("rate")
    proposed = ShortTraining(0.1, steps, initial_loss=2.0, loss=0.5)
    judge_rate(verdict, ShortTraining(1.0, steps, initial_loss=2.0, loss=loss), proposed)
    assert verdict.status == status


@pytest.mark.parametrize(("loss", "is_low"), [(-1.9, False), (-2.1, False), (-4.0, True)])
def test_a_loss_below_zero_must_fall_far(loss: float, is_low: bool) -> None:
    """As that of a density may be from the first step on."""
    attempt = Attempt(lowest_loss=None, steps=9, initial_loss=-2.0, loss=loss)
    assert attempt.is_low() == is_low


def test_ignored_labels_do_not_count_as_errors() -> None:
    labels = torch.tensor([0, 1, -1])
    assert accuracy_of(torch.eye(2)[[0, 1, 0]], labels, classes=2).value == 1.0


def test_a_rate_that_diverges_is_not_recommended() -> None:
    verdict = Verdict("rate")
    proposed = ShortTraining(0.1, 40, initial_loss=2.0, loss=math.inf)
    judge_rate(verdict, ShortTraining(1.0, 40, initial_loss=2.0, loss=math.nan), proposed)
    (message,) = verdict.failures
    assert "optimizer.lr = 1 is too high" in message
    assert "use it" not in message


def test_a_batch_is_not_judged_after_few_steps(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overfit, "SECONDS_PER_RATE", 0.0)
    verdict = check_overfit(make_trainer(MLP))
    assert verdict.figures["steps"] == 1
    assert verdict.status == "warning"
