"""Several processes, started by torchrun: the same training as in one, and no deadlock."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launcher
import pytest
import torch
from conftest import CONFIG, QUICK_SETTINGS, ROOT
from launcher import PROCESSES, launch, run_processes, start, wait_for_step, worker_pids
from stopped_runs import differences, load, logged_rows
from torch import Generator, Tensor, nn

from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import BatchLoader
from utils.batch_norm import CPUSyncBatchNorm, synchronize_batch_norm
from utils.errors import UserError
from utils.randomness import RandomStream, seed_global_generators, uniform

end_started_processes = launcher.end_started_processes  # a fixture of all tests in this module
SMALL = ("--config", CONFIG, *QUICK_SETTINGS, "data.batch_size=60", "trainer.max_steps=40")
ROUNDING = 1e-10  # largest relative difference of weights in double precision


def logged_values(run: Path) -> dict[tuple[str, ...], float]:
    """The values of metrics.csv except the speed, by split, epoch, step and metric."""
    return {tuple(row[1:5]): float(row[5]) for row in logged_rows(run)[1:]}


def weight_difference(run: Path, other: Path) -> float:
    """The largest difference between the weights of two runs, relative to the largest weight."""
    weights = load(run)["model"]
    other_weights = load(other)["model"]
    largest_difference = 0.0
    largest_weight = 0.0
    for name, value in weights.items():
        difference = (value - other_weights[name]).abs().max().item()
        largest_difference = max(largest_difference, difference)
        largest_weight = max(largest_weight, value.abs().max().item())
    return largest_difference / largest_weight


def checkpoint_differences(run: Path, other: Path) -> list[str]:
    """Paths of the values that differ, in any bit, between the last checkpoints of two runs."""
    return differences(load(run), load(other))


# The same training in any number of processes


def test_any_number_of_processes_trains_the_same_model(tmp_path: Path) -> None:
    """With batch normalisation, accumulation, clipping, and steps with too few samples for all."""
    options = ("trainer.accumulate=2", "trainer.clip_norm=0.5")
    for count in (1, 3):
        run_processes(count, "train", tmp_path / str(count), *options)
    expected = logged_values(tmp_path / "1")
    assert len(expected) > 10
    assert weight_difference(tmp_path / "1", tmp_path / "3") < ROUNDING
    assert logged_values(tmp_path / "3") == pytest.approx(expected, rel=1e-6)
    assert validation_accuracies(tmp_path / "3") == validation_accuracies(tmp_path / "1")


def validation_accuracies(run: Path) -> list[float]:
    accuracies = []
    for (split, _, _, metric), value in logged_values(run).items():
        if split == "validation" and metric == "accuracy":
            accuracies.append(value)
    assert len(accuracies) > 0
    return accuracies


def test_a_parameter_without_a_gradient_is_named_unless_it_is_allowed(tmp_path: Path) -> None:
    output = launch(2, PROCESSES, "unused", tmp_path / "refused", expected=1)
    for part in ("unused.weight", "trainer.find_unused_parameters=true"):
        assert part in output
    assert not (tmp_path / "refused/checkpoints/last.pt").exists()
    run_processes(2, "unused", tmp_path / "run", "trainer.find_unused_parameters=true")
    run_processes(1, "unused", tmp_path / "single")
    assert weight_difference(tmp_path / "run", tmp_path / "single") < ROUNDING


def test_dropout_differs_between_processes_and_its_generators_are_saved(tmp_path: Path) -> None:
    run_processes(2, "dropout", tmp_path / "run")
    first_masks, second_masks = torch.load(tmp_path / "run/masks.pt", weights_only=True)
    assert 0.4 < (first_masks == second_masks).double().mean() < 0.6
    first_state, second_state = load(tmp_path / "run")["ranks"]
    assert not torch.equal(first_state["random_state"]["cpu"], second_state["random_state"]["cpu"])


class RandomSamples(BaseDataset):
    """Samples with noise from the global generators, and more of it from `rng`."""

    title = "random samples"

    def __init__(self, count: int = 103) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        noise = torch.tensor([random.random(), float(torch.rand(()))])
        return {"index": torch.tensor(index), "noise": noise}

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        if rng is None:
            return batch
        return {**batch, "augmentation": uniform(rng, len(batch["index"]), 2)}


def make_rank_loaders(dataset: BaseDataset, world_size: int, **options: Any) -> list[BatchLoader]:
    """The loaders of all processes, for batches of 12."""
    loaders = []
    for rank in range(world_size):
        loaders.append(BatchLoader(dataset, 12, rank=rank, world_size=world_size, **options))
    return loaders


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_divide_each_batch_with_its_random_numbers(world_size: int) -> None:
    dataset = RandomSamples()
    whole_loader = BatchLoader(dataset, 12, seed=1, accumulate=2)
    rank_loaders = make_rank_loaders(dataset, world_size, seed=1, accumulate=2)
    for number in (0, 3, 4):  # the last step of an epoch has 7 samples
        whole_step = next(whole_loader.steps(number, number + 1))
        rank_steps = [next(loader.steps(number, number + 1)) for loader in rank_loaders]
        for k, whole_batch in enumerate(whole_step.batches):
            for name, values in whole_batch.items():
                for rank, step in enumerate(rank_steps):
                    assert torch.equal(step.batches[k][name], values[rank::world_size])
        samples = torch.tensor([step.sample_counts for step in rank_steps])
        assert samples.sum(0).tolist() == whole_step.sample_counts
        loss_weights = torch.tensor([step.loss_weights for step in rank_steps])
        assert loss_weights.sum().item() == pytest.approx(world_size)


@pytest.mark.parametrize("count", [25, 26, 27, 3, 2, 1])
def test_every_process_has_a_sample_in_every_evaluation_step(count: int) -> None:
    """Except for a data set with fewer samples than processes."""
    loaders = make_rank_loaders(RandomSamples(count), world_size=3)
    found = []
    for loader in loaders:
        for number, step in enumerate(loader.steps(0, loader.steps_per_epoch)):
            if count >= 3:
                assert step.sample_counts[0] > 0
            indices = step.batches[0]["index"].tolist()
            assert loader.source.local_indices(number).tolist() == indices
            found += indices
    assert sorted(found) == list(range(count))


@pytest.mark.parametrize("workers", [0, 1])
def test_random_numbers_of_a_step_do_not_depend_on_how_its_samples_were_loaded(
    workers: int,
) -> None:
    loader = BatchLoader(RandomSamples(), 12, seed=1, workers=workers)
    for _ in loader.steps(0, 3):
        drawn = [random.random(), float(torch.rand(()))]
    seed_global_generators(1, RandomStream.LOADING, 2, 0)
    assert drawn == [random.random(), float(torch.rand(()))]


class StartMethod(BaseDataset):
    """Samples that contain how the process that loads them was started."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Sample:
        process_class = type(multiprocessing.current_process()).__name__
        return {"is_forkserver": torch.tensor(process_class == "ForkServerProcess")}


@pytest.mark.parametrize("world_size", [1, 2])
def test_workers_of_several_processes_are_not_forked(world_size: int) -> None:
    loader = make_rank_loaders(StartMethod(), world_size, workers=1)[0]
    for step in loader.steps(0, loader.steps_per_epoch):
        if world_size > 1:
            assert step.batches[0]["is_forkserver"].all()


class NormalizationWithReLU(nn.BatchNorm2d):
    """Batch normalisation with an activation."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised and rectified, shape of the input."""
        return super().forward(input).relu()


def test_a_batch_normalisation_with_its_own_forward_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), NormalizationWithReLU(2))
    with pytest.raises(UserError, match=r"^1 .*NormalizationWithReLU.*forward"):
        synchronize_batch_norm(model, torch.device("cpu"))


def test_evaluation_counts_every_sample_once(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"  # without an earlier evaluation, with which this one would be compared
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("evaluation"))
    predictions = run / "evaluation/test/predictions.csv"
    expected = launch(0, ROOT / "evaluate.py", run)
    expected_predictions = predictions.read_text()
    expected_metrics = json.loads((predictions.parent / "metrics.json").read_text())
    predictions.unlink()
    output = launch(3, ROOT / "evaluate.py", run)
    assert predictions.read_text() == expected_predictions
    metrics = json.loads((predictions.parent / "metrics.json").read_text())
    assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-5)
    # The loss is summed in another order, which may change the last digit that is printed.
    expected_lines = [
        line for line in expected.splitlines() if " " in line and not line.startswith("loss ")
    ]
    assert any("accuracy" in line for line in expected_lines)
    assert [line for line in output.splitlines() if line in expected_lines] == expected_lines


def test_sharded_evaluation_of_fewer_samples_than_processes_is_an_error(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    trainer.sharded = True
    monkeypatch.setenv("WORLD_SIZE", "211")
    with pytest.raises(UserError, match=r"validation: 210 samples .* 211 processes") as raised:
        trainer.evaluate("validation")
    assert "trainer.strategy=fsdp" in str(raised.value)
    assert raised.value.exit_code == 2


# Batch normalisation


@pytest.mark.parametrize("momentum", [0.1, None])
def test_synchronised_batch_norm_equals_that_of_torch(momentum: float | None) -> None:
    expected_layer = nn.BatchNorm2d(3, momentum=momentum)
    layer = nn.BatchNorm2d(3, momentum=momentum)
    synchronize_batch_norm(layer, torch.device("cpu"))
    assert isinstance(layer, CPUSyncBatchNorm)
    for size in (4, 1):
        inputs = torch.randn(size, 3, 5, 5, requires_grad=True)
        other_inputs = inputs.detach().clone().requires_grad_()
        outputs = layer(inputs)
        expected = expected_layer(other_inputs)
        torch.testing.assert_close(outputs, expected)
        factors = torch.randn_like(outputs)
        (outputs * factors).sum().backward()
        (expected * factors).sum().backward()
        torch.testing.assert_close(inputs.grad, other_inputs.grad, rtol=1e-4, atol=1e-5)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(value, expected_layer.state_dict()[name])


def test_synchronised_batch_norm_rejects_a_single_value_per_channel() -> None:
    layer = nn.BatchNorm1d(3)
    synchronize_batch_norm(layer, torch.device("cpu"))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.ones(1, 3))
    assert torch.equal(layer.state_dict()["running_var"], torch.ones(3))
    assert layer.eval()(torch.ones(1, 3)).isfinite().all()


# Output of rank 0, errors of any rank


def test_only_the_main_process_logs_and_errors_of_others_have_their_rank(tmp_path: Path) -> None:
    output = launch(2, ROOT / "train.py", *SMALL, "--run-dir", tmp_path / "run")
    assert output.count("run folder: ") == 1
    assert output.count("epoch 1/2") == 1
    errors = launch(2, ROOT / "train.py", *SMALL, "data.batch_size=61", expected=1)
    lines = [line for line in errors.splitlines() if "data.batch_size = 61" in line]
    assert lines
    for line in lines:
        assert line.startswith(("error: ", "[rank 1] error: "))
        assert "2 processes" in line
        assert "60 or 62" in line
    assert not (tmp_path / "runs").exists()


# Faults


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_job_that_loses_a_process_resumes_by_itself(tmp_path: Path, strategy: str) -> None:
    saves = ("checkpoint.every_steps=4", f"trainer.strategy={strategy}")
    options = (*SMALL, *saves, "trainer.max_steps=120", "trainer.epochs=9")
    uninterrupted = tmp_path / "uninterrupted"
    launch(2, ROOT / "train.py", *options, "--run-dir", uninterrupted)
    job = start(2, ROOT / "train.py", *options, options=("--standalone", "--max-restarts=3"))
    for rank, step in ((1, 8), (0, 50)):
        wait_for_step(tmp_path, step)
        os.kill(worker_pids(job)[rank], signal.SIGKILL)
    output = launcher.wait_for_end(job)
    (run,) = (tmp_path / "runs/synthetic").iterdir()
    assert output.count(f"run folder: runs/synthetic/{run.name}") == 3
    assert not checkpoint_differences(run, uninterrupted)
    assert logged_rows(run) == logged_rows(uninterrupted)


@pytest.mark.parametrize("receiver", ["second process", "torchrun"])
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path, receiver: str) -> None:
    changes = ("trainer.max_steps=400", "trainer.epochs=99", "checkpoint.every_steps=20")
    options = (*SMALL, *changes, "logger.curves=true", "logger.every_steps=10")
    job = start(2, ROOT / "train.py", *options)
    wait_for_step(tmp_path, 20)
    if receiver == "torchrun":
        os.kill(job.pid, signal.SIGTERM)
    else:
        os.kill(worker_pids(job)[1], signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "stopped; resume: " in output
    assert " --resume runs/synthetic/" in output  # after the script, as it was called
    (run,) = (tmp_path / "runs/synthetic").iterdir()
    step = load(run)["progress"]["step"]
    assert step < 400
    stopped = json.loads((run / "result.json").read_text())
    assert (stopped["state"], stopped["exit_code"]) == ("stopped", 128 + signal.SIGTERM)
    assert stopped["step"] == step
    assert (run / "curves.png").exists()
    launch(2, ROOT / "train.py", "--resume", run, f"trainer.max_steps={step + 5}")
    assert load(run)["progress"]["step"] == step + 5
    assert json.loads((run / "result.json").read_text())["state"] == "finished"


def test_an_error_in_one_process_ends_all_with_its_traceback(tmp_path: Path) -> None:
    output = launch(2, PROCESSES, "error", tmp_path / "run", expected=1)
    assert "[rank1]: ZeroDivisionError: error of the second process" in output


def test_an_error_ends_a_process_at_once() -> None:
    """Without waiting for a thread, which may wait for another process, which waits for this one.

    As with trainer.strategy=fsdp, where a thread writes the shards.
    """
    script = """
import threading
from utils.command import run_command

def main():
    threading.Thread(target=threading.Event().wait).start()
    raise ZeroDivisionError("error of the second process")

run_command(main)
"""
    second_process = {**launcher.environment(), "WORLD_SIZE": "2", "RANK": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=second_process,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert finished.returncode == 1
    assert finished.stderr.endswith("ZeroDivisionError: error of the second process\n")


def test_a_layer_that_one_process_leaves_out_later_is_named(tmp_path: Path) -> None:
    """In the last step of an epoch: the other process waits for gradients, this one validates."""
    output = launch(2, PROCESSES, "sometimes-unused", tmp_path / "run", expected=1)
    assert output.count("trainer.find_unused_parameters=true") == 1
    assert "[rank 1] error: 2 parameters get no gradient" in output
    assert "unused.weight" in output
    assert "Connection closed by peer" not in output


def test_an_error_in_the_validation_of_one_process_loses_no_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    output = launch(2, PROCESSES, "failing-evaluation", run, expected=1)
    assert output.count("ZeroDivisionError: error of the second process") == 1
    assert load(run)["progress"]["step"] == 11
    run_processes(2, "train", run)
    run_processes(2, "train", tmp_path / "uninterrupted")
    assert not checkpoint_differences(run, tmp_path / "uninterrupted")


def test_figures_that_fail_in_all_processes_are_a_warning_and_in_one_an_error(
    tmp_path: Path,
) -> None:
    options = ("logger.tensorboard=true", "trainer.epochs=1")
    output = launch(2, PROCESSES, "failing-figures", tmp_path / "all", *options)
    assert "error of process 0" in output
    assert "error of process 1" in output
    output = launch(2, PROCESSES, "failing-figures-once", tmp_path / "one", *options, expected=1)
    assert output.count("ZeroDivisionError: error of the second process") == 1
    for run in ("all", "one"):
        assert load(tmp_path / run)["progress"]["step"] == 11


def test_a_non_finite_loss_in_one_process_makes_all_skip_the_step(tmp_path: Path) -> None:
    options = ("trainer.non_finite=skip", "trainer.max_steps=8")
    run_processes(2, "non-finite", tmp_path / "run", *options)
    progress = load(tmp_path / "run")["progress"]
    assert progress["step"] == 8
    assert progress["skipped_steps"] == 1
    saved = torch.load(tmp_path / "run/non_finite_00000003.pt", weights_only=True)
    assert saved["progress"]["step"] == 2
    assert len(saved["batches"]) == 2


def test_replicas_with_different_weights_are_an_error(tmp_path: Path) -> None:
    output = launch(2, PROCESSES, "unwrapped-model", tmp_path / "run", expected=1)
    assert "the weights of the processes differ" in output
    assert "self.parallel_model" in output
    assert load(tmp_path / "run")["progress"]["step"] == 0


# Resuming with another number of processes, or the same


def test_a_run_resumes_with_another_number_of_processes(tmp_path: Path) -> None:
    options = ("scheduler.name=constant", "trainer.epochs=3", "trainer.ema=0.9")
    uninterrupted = tmp_path / "uninterrupted"
    run_processes(1, "train", uninterrupted, *options)
    for first_count, second_count in ((1, 4), (4, 2)):
        run = tmp_path / f"{first_count}-{second_count}"
        run_processes(first_count, "train", run, *options, "trainer.max_steps=13")
        run_processes(second_count, "train", run, *options)
        assert load(run)["progress"]["step"] == 33
        assert weight_difference(uninterrupted, run) < 1e-6


def test_the_same_number_of_processes_resumes_bit_for_bit(tmp_path: Path) -> None:
    options = ("scheduler.name=constant", "trainer.epochs=3", "logger.every_steps=7")
    saves = ("checkpoint.every_steps=16", "checkpoint.keep=9")
    uninterrupted = tmp_path / "uninterrupted"
    run_processes(2, "dropout", uninterrupted, *options, *saves)
    resumed = tmp_path / "resumed"
    (resumed / "checkpoints").mkdir(parents=True)
    saved = uninterrupted / "checkpoints/step_00000016.pt"
    shutil.copy(saved, resumed / "checkpoints/last.pt")
    shutil.copy(uninterrupted / "metrics.csv", resumed)
    run_processes(2, "dropout", resumed, *options)
    changed = {"/settings/checkpoint/every_steps", "/settings/checkpoint/keep"}
    assert set(checkpoint_differences(uninterrupted, resumed)) <= changed
    assert logged_rows(resumed) == logged_rows(uninterrupted)
