"""The training loop, whole: `BaseTrainer.fit` is all of it."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from base.base_dataset import Batch, batch_size
from base.base_model import BaseModel
from base.batch_loader import BatchLoader
from config.schema import Settings
from logger.console import format_values, log, progress_bar
from logger.figures import Figure
from logger.meter import Meter
from logger.run_log import RunLog
from metrics.protocol import Metric, scalar_results
from optim.optimizers import MovingAverage, build_optimizers, set_learning_rates
from storage.checkpoint_file import check_finite
from storage.checkpointer import Saver
from storage.non_finite import update_guarded
from storage.state import check_alike, load_trainer_state, trainer_state
from utils import parallel as distributed
from utils.device import autocast_dtype, move, select_device
from utils.errors import RANK, TRAINING_FAILED, WORLD, LoadingError, UserError
from utils.randomness import seed_torch
from utils.signals import StopSignals

Loaders = Mapping[str, BatchLoader]


class BaseTrainer(ABC):
    """Trains a model, evaluates it and predicts with it.

    A project defines `training_step` and `evaluation_step`, and may override `configure_metrics`,
    `build_optimizers`, `update`, `pictures` and `tables`. Further constructor arguments are
    settings.

    Args:
        settings: all settings of the run.
        model: the network; it is moved to the device.
        loaders: batches by split; `fit` needs ``train`` and ``validation``.
        run: the folder in which `fit` saves and logs.
    """

    def __init__(self, settings: Settings, model: BaseModel, loaders: Loaders, run: Path) -> None:
        self.settings, self.options = settings, settings.trainer
        self.loaders, self.run = loaders, run
        self.dataset = next(iter(loaders.values())).dataset
        self.device = select_device(settings.device)
        for loader in loaders.values():
            loader.cache_on_device(self.device)
        self.precision = autocast_dtype(self.options.precision, self.device)
        self.compute = f"{self.device} ({str(self.precision).removeprefix('torch.')})"  # for logs
        self.sharded = WORLD > 1 and self.options.strategy == "fsdp"
        self.compute += f", {WORLD} processes{' with shares' * self.sharded}" * (WORLD > 1)
        self.model = model if self.sharded else model.to(self.device)  # else each part goes there
        ema = self.options.ema  # the weights' moving average is what is evaluated
        self.average = None if ema is None else MovingAverage(self.model, ema)
        if self.average and self.sharded:
            distributed.shard(self.average.module, self.device, self.precision)
        self.parallel = self.spread()
        torch.set_float32_matmul_precision("high" if self.options.tf32 else "highest")
        evaluated = self.model if self.average is None else self.average.module
        for part in {self.model, evaluated} if self.options.compile else ():
            # In place: torch.compile(model) would rename the weights. Rounded as without: what
            # amax found is looked for again, and not found among values of another precision.
            part.compile(options={"emulate_precision_casts": True})
        self.optimizers = self.configure_optimizers()
        self.scaler = GradScaler(self.device.type, enabled=self.precision == torch.half)
        self.metrics = self.configure_metrics().to(self.device)
        self.step, self.skipped = 0, 0  # steps done, and how many of them left the weights alone
        self.best, self.validations_without_improvement = math.nan, 0  # of checkpoint.monitor
        self.stop_signal = 0  # what ended fit
        self.evaluated, self.log_due = True, False  # no validation is due; nor is a log entry
        self.meter = Meter()
        self.saver = Saver(run / "checkpoints", settings.checkpoint, self.sharded)
        self.guarded_until = 0  # the last step that is checked, and taken back if it fails
        self.own = (RANK,) if RANK else ()  # dropout differs between processes
        seed_torch(settings.seed, UPDATE, *self.own, device=self.device)  # or else each step is

    def spread(self) -> nn.Module:
        """What is trained in the model's place; anew when other parameters are to be trained."""
        return distributed.spread(self.model, self.device, self.sharded, self.precision)

    # What every project defines.

    @abstractmethod
    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The ``loss`` of a batch, a scalar mean over its samples, and other scalars to log.

        If one of them is not finite, training stops.
        """

    @abstractmethod
    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        """Updates `self.metrics` with a batch."""

    # What a project may change.

    def configure_metrics(self) -> Metric:
        """The metrics that `evaluation_step` updates: the mean ``loss``, from ``value``."""
        from torchmetrics import MeanMetric, MetricCollection  # takes seconds to import

        return MetricCollection({"loss": MeanMetric()})

    def higher_is_better(self, name: str) -> bool:
        """Whether more of a metric is better, which the metrics know: ours, and torchmetrics'."""
        metrics: Any = self.metrics
        own = getattr(metrics, "higher_is_better", None)
        return bool(own(name) if own else getattr(metrics[name], "higher_is_better", False))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers, their groups with the highest learning rates."""
        return build_optimizers(self.model, self.settings)

    def update(self, batches: Sequence[Batch]) -> None:
        """One optimizer step, on batches whose gradients add up to that of their mean loss."""
        shares = self.loaders["train"].loss_weights(self.step - 1)
        for batch, share in zip(batches, shares, strict=True):
            last = batch is batches[-1]
            with nullcontext() if last else distributed.unsynced(self.parallel):
                with self.autocast():
                    scalars = self.training_step(self.parallel, batch)
                loss = scalars["loss"] if share == 1 else scalars["loss"] * share
                self.scaler.scale(loss).backward()
            self.meter.add(scalars, share)
        if self.options.clip_norm is not None:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        """What `predict.py` says of each sample's outputs: one answer or more, best first."""
        return [[{"output": output}] for output in outputs.tolist()]

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        """Pictures of what `evaluate` found, by name."""
        return {}

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """Tables of what `evaluate` found, by name; the first row is the header."""
        return {}

    # The loop.

    def fit(self) -> None:
        """Trains from step `self.step` to the last, an early stop, or a signal to stop.

        Raises:
            NonFiniteError: if the loss or a weight is no number any more; see `base/guard.py`.
            LoadingError: if a batch cannot be had; the state is saved.
            UserError: if the run folder cannot be written when training begins or ends.
        """
        loader, total = self.loaders["train"], self.total_steps
        options = self.settings.logger
        self.record = RunLog(self.run, self.dataset.title, self.step, self.settings)
        bar = progress_bar(total, self.dataset.title, self.step)
        votes = distributed.Votes()
        with self.record, bar, StopSignals() as signals, self._saving(signals), votes:
            self._begin()
            steps = loader.steps(self.step, self.step if self.finished else total)
            for batches in self.meter.watch(steps):
                factor = self._set_rates(self.step)
                self.step += 1
                epoch_ends = self.step in (self.epoch * loader.steps_per_epoch, total)
                self.log_due = epoch_ends or self.step % options.every_steps == 0

                batches = [move(batch, self.device) for batch in batches]
                if loader.seeds_all:
                    key = (self.settings.seed, UPDATE, self.step, *self.own)
                    seed_torch(*key, device=self.device)
                if self.step > self.guarded_until:
                    self.update(batches)
                else:
                    update_guarded(self, batches)
                if self.average is not None:
                    self.average.update_parameters(self.model)

                bar.update()
                if self.log_due:
                    bar.set_postfix_str(self._log_step(factor), refresh=False)
                # A signal may come at any moment, and to one process alone.
                self.stop_signal = votes.agree(signals.received)
                if epoch_ends:
                    self._end_epoch()
                elif self.stop_signal or self.saver.due(self.step, self.log_due):
                    self.save()
                if self.stop_signal or (epoch_ends and self.finished):
                    break
        if self.saver.failure:
            raise UserError(self.saver.failure, TRAINING_FAILED)

    def evaluate(self, split: str) -> dict[str, Tensor]:
        """The metrics over a split, on the CPU."""
        loader = self.loaders[split]
        self.metrics.reset()
        with self.evaluating() as model, progress_bar(loader.steps_per_epoch, split) as bar:
            for (batch,) in loader.steps(0, loader.steps_per_epoch):
                if batch_size(batch):
                    self.evaluation_step(model, move(batch, self.device))
                elif self.sharded:  # the others gather the model with this process's shares
                    metrics, self.metrics = self.metrics, copy.deepcopy(self.metrics)
                    self.evaluation_step(model, move(loader.sample_batch(1), self.device))
                    self.metrics = metrics
                bar.update()
            return {name: value.cpu() for name, value in self.metrics.compute().items()}

    def predict(self, batch: Batch) -> Tensor:
        """The model's outputs for a batch, float32, on the CPU."""
        with self.evaluating() as model:
            outputs: Tensor = model(move(batch, self.device)["input"])
            return outputs.float().cpu()

    # What these are made of.

    @property
    def total_steps(self) -> int:
        """The step that training ends with."""
        steps = self.options.epochs * self.loaders["train"].steps_per_epoch
        return min(steps, self.options.max_steps or steps)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or `trainer.early_stop` epochs have brought no gain."""
        stopped_early = self.validations_without_improvement >= (
            self.options.early_stop or math.inf
        )
        return self.evaluated and (self.step >= self.total_steps or stopped_early)

    @property
    def epoch(self) -> int:
        """The epoch at work, from 1."""
        return max(self.step - 1, 0) // self.loaders["train"].steps_per_epoch + 1

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the model computes."""
        mixed = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision) if mixed else nullcontext()

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model to be evaluated (the average, where there is one), in evaluation mode."""
        model = self.model if self.average is None else self.average.module
        training = model.training
        model.eval()
        # What blocks are gathered into is used again in training, where those cannot be.
        without_gradients = torch.no_grad() if self.sharded else torch.inference_mode()
        with without_gradients, self.autocast():
            yield model
        model.train(training)

    @contextmanager
    def _saving(self, signals: StopSignals) -> Iterator[None]:
        """Saves if a batch cannot be had, which is no error after a signal to all processes."""
        try:
            yield
        except LoadingError:
            if WORLD > 1:  # the others are in the midst of a step
                raise
            self.save()
            self.stop_signal = signals.received
            if not self.stop_signal:
                raise
        finally:
            self.saver.finish()

    def _begin(self) -> None:
        """Saves the first state, so that a folder that cannot be written is found now.

        Of a run that goes on, a validation may be due, which is saved with the rates of its step.
        """
        if not self.evaluated:
            self._set_rates(min(self.step, self.total_steps) - 1)
            self._end_epoch()
        if self.step == 0:
            self.save()
            self.saver.finish()
            if self.saver.failure:
                raise UserError(self.saver.failure)
        self.meter.restart(self.step)

    def _set_rates(self, done: int) -> float:
        """Sets the learning rates of the step after `done` steps; their share of the highest."""
        per_epoch = self.loaders["train"].steps_per_epoch
        return set_learning_rates(self.optimizers, self.settings, done, self.total_steps, per_epoch)

    def _log_step(self, factor: float) -> str:
        """Writes the means since the last log entry; here the host waits for the device."""
        values = {**self.meter.read(), "lr": factor * self.settings.optimizer.lr}
        text, before = format_values(values), self.loaders["train"].samples_before
        values |= self.meter.speed(before(self.step) - before(self.meter.since))
        self.record.scalars("train", self.epoch, self.step, values)
        log.debug("step %d  %s", self.step, format_values(values))
        self.meter.restart(self.step)
        return text

    def _end_epoch(self) -> None:
        """Evaluates, logs, notes whether it is the best so far, and saves."""
        self.evaluated = False
        results = self.evaluate("validation")
        self.evaluated = True
        scalars = scalar_results(results)
        self.record.scalars("validation", self.epoch, self.step, scalars)
        name = self.settings.checkpoint.monitor
        sign, value = 1 if self.higher_is_better(name) else -1, scalars[name]
        gained = math.isfinite(value) and not sign * value <= sign * self.best  # NaN at first
        self.best, missed = (
            (value, 0) if gained else (self.best, self.validations_without_improvement + 1)
        )
        self.validations_without_improvement = missed
        text = f"epoch {self.epoch}/{self.options.epochs}, validation {format_values(scalars)}"
        log.info("%s: %s%s", self.dataset.title, text, "  (best so far)" * (value == self.best))
        self.save(best=value == self.best)  # of equals the last; pictures take a while
        if self.epoch == 1 and self.record.illustrated:
            batch = next(self.loaders["train"].steps(0, 1))[0]
            batch = {name: value.cpu() for name, value in batch.items()}
            figure = self.dataset.draw(batch, f"{self.dataset.title}: training inputs")
            self.record.figures({"inputs": figure} if figure else {}, self.step)
        if self.finished and self.record.illustrated:
            self.record.figures(self.figures("validation", results), self.step)
            self.record.conclude(scalars)
        self.meter.restart(self.step)

    # Saving and resuming.

    def save(self, best: bool = False) -> None:
        """Saves a checkpoint in the run folder; where that fails, `saver.failure` says why.

        Raises:
            NonFiniteError: if there is a weight in it that is no number; nothing is saved then.
        """
        state = self.state_dict()
        check_finite(state, f"step {self.step}:")
        check_alike(self)
        self.saver.save(state, best, self.record.sync)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values."""
        return trainer_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was taken."""
        load_trainer_state(self, state)


UPDATE = 3  # purpose of random numbers, as in batch_loader
