"""The abstract trainer; `BaseTrainer.fit` is the whole training loop."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from base import evaluation, optimizer_step, training_losses
from base.base_dataset import BaseDataset, Batch
from base.base_model import BaseModel
from base.batch_loader import BatchLoader, Step
from base.invalid_labels import naming_invalid_labels
from base.optimizer_step import TrainingStep
from base.sample_order import SampleOrder
from base.validation import (
    describe_early_stop,
    log_figures,
    log_missing_figures,
    record_validation,
    undoing_on_error,
)
from config.schema import NO_CLASS, Settings
from logger.console import format_values, log, progress_bar
from logger.figures import Figure
from logger.meter import Meter
from logger.run_log import RunLog
from metrics.average import MeanLoss, WeightedMeans
from metrics.protocol import Metric, check_protocol, higher_is_better
from metrics.sample_values import SampleValues, columns_of, mean_values
from optim.losses import Loss, build_loss
from optim.moving_average import MovingAverage
from optim.optimizers import build_optimizers, check_optimizers, has_evaluation_mode, learning_rates
from optim.schedulers import (
    Schedule,
    build_schedule,
    build_schedulers,
    check_direction,
    check_schedule,
    check_span,
    scale_learning_rates,
)
from storage.checkpointer import Checkpointer
from storage.example_inputs import to_plain_data
from storage.non_finite_guard import NonFiniteGuard
from storage.progress import Progress
from storage.saving_on_error import SavingOnError
from storage.state import check_plain, stateful_objects
from storage.trainer_state import collect_trainer_state, restore_trainer_state
from storage.training_time import TrainingTime
from utils.device import select_autocast_dtype, select_device, to_device
from utils.errors import BAD_INPUT, UserError, naming_source
from utils.finite import check_finite
from utils.outputs import answers_by_sample
from utils.parallel import check_replicas_equal, no_gradient_sync, shard_model, wrap_for_processes
from utils.randomness import GlobalRandomState, RandomStream, preserve_global_rng, seed_torch
from utils.ranks import rank, world_size
from utils.signals import StopSignals
from utils.stop_flag import StopFlag

Loaders = Mapping[str, BatchLoader]


class BaseTrainer(ABC):
    """Trains a model, evaluates it and predicts with it.

    A project defines `training_step` and `evaluation_step`. It may override `configure_metrics`,
    `configure_optimizers`, `set_learning_rates`, `higher_is_better`, `update`, `predict_step`,
    `after_step`, `after_evaluation`, `example_inputs`, `exported_model`, `describe`, `figures`,
    `tables`, `sample_columns`, `sample_metrics`, `sample_figures` and `ensemble_outputs`, and call
    `record_samples` and `stop`. The further parameters of a constructor are settings.

    Args:
        settings: all settings of the run.
        model: the network.
        loaders: a loader for each split; `fit` needs ``train`` and ``validation``.
            `StepSource.sample_indices` in base/batch_loader.py decides on the order of the samples.
        run: the run folder, where `fit` saves and logs.

    Attributes:
        default_loss: the loss that is used without `loss.name`; ``none`` if the trainer does not
            use `self.loss`.
        evaluates_with_gradients: whether `evaluation_step` and `predict_step` use autograd, as for
            forces or adversarial examples.
        saved_attributes: names of further attributes with a state: tensors and plain data.
        progress: steps made so far, best value, and so on.
        stop_signal: the signal that ended `fit`, or 0.
        evaluated_indices: in `evaluation_step`, the indices of the samples of the batch in their
            data set, int64, shape (N,), on the device; None outside `evaluate`.
        trained_indices: in `training_step`, the indices of the samples of the batch, those of all
            processes together, int64, shape (samples,); None outside a step, and for a batch that
            was not loaded from a data set.
        evaluated_split: the split that `evaluate` has evaluated last, or evaluates now.
        sample_values: what `record_samples` has kept of the last evaluation of each split.
        sample_order: the order of the training samples, with the state of their sampler; None if
            they are shuffled, which needs no state.
    """

    default_loss = NO_CLASS
    evaluates_with_gradients = False
    saved_attributes: Sequence[str] = ()

    def __init__(self, settings: Settings, model: BaseModel, loaders: Loaders, run: Path) -> None:
        self.settings = settings
        self.options = settings.trainer
        self.loaders = loaders
        self.run = run
        self.device = select_device(settings.device)
        self.autocast_dtype = select_autocast_dtype(self.options.precision, self.device)
        self.sharded = world_size() > 1 and self.options.strategy == "fsdp"
        self.model = model
        if not self.sharded:  # otherwise each process moves its shards only
            self.model.to(self.device)
        for loader in loaders.values():
            loader.use_device(self.device)

        self.progress = Progress()
        self._saved_progress: dict[str, Any] = {}
        self.meter = Meter()
        uses_half = self.autocast_dtype == torch.half
        if uses_half and any(parameter.is_complex() for parameter in model.parameters()):
            raise UserError(
                "trainer.precision = 'fp16' does not support complex parameters; use "
                "trainer.precision=bf16 or fp32"
            )
        self.scaler = GradScaler(self.device.type, enabled=uses_half)
        self.random_state = GlobalRandomState(self.device)
        self.run_log = RunLog(run, self.dataset.title, settings)
        self.training_time = TrainingTime(run, self.options.max_minutes)
        self.checkpointer = Checkpointer(run / "checkpoints", settings.checkpoint, self.sharded)
        skips = self.options.non_finite == "skip"
        self.guard = NonFiniteGuard(run, skips, self.sharded)
        self.stop_signal = 0
        self.evaluated_indices: Tensor | None = None
        self.trained_indices: Tensor | None = None
        self.evaluated_split = ""
        self.sample_values: dict[str, SampleValues] = {}
        self.gradient_norm: Tensor | None = None
        self.sample_order: SampleOrder | None = None
        if "train" in loaders:
            self.sample_order = loaders["train"].order

        torch.set_float32_matmul_precision("high" if self.options.tf32 else "highest")
        # Dropout differs between processes; rank 0 draws the same numbers as a single process.
        self._update_key = (settings.seed, RandomStream.UPDATE)
        self._rank_key = (rank(),) if rank() > 0 else ()
        # What the constructor of a subclass draws is the same in all processes.
        seed_torch(*self._update_key, device=self.device)

    # The following parts are built when they are first used, so that the constructor of a
    # subclass can set its attributes after `super().__init__(**kwargs)`.

    @cached_property
    def moving_average(self) -> MovingAverage | None:
        """The moving average of the weights, which is evaluated; None without `trainer.ema`."""
        if self.options.ema is None:
            return None
        average = MovingAverage(self.model, self.options.ema)
        if self.sharded:
            shard_model(average.module, self.device, self.autocast_dtype)
        return average

    @cached_property
    def parallel_model(self) -> nn.Module:
        """The module to call in training: the model, or the model wrapped in DDP or FSDP2."""
        evaluated_model = self.evaluated_model  # a copy is made before the model is sharded
        parallel_model = self.wrap_model()
        if self.options.compile:
            for module in {self.model, evaluated_model}:
                # In place: torch.compile(model) would rename the weights. The option makes
                # bfloat16 and float16 round as in eager mode.
                module.compile(options={"emulate_precision_casts": True})
        return parallel_model

    @cached_property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """What `configure_optimizers` returns."""
        _ = self.parallel_model  # FSDP2 replaces the parameters
        source = f"{type(self).__name__}.configure_optimizers"
        with naming_source(source):
            configured = self.configure_optimizers()
        optimizers: list[Any] = check_optimizers(configured, source)
        for optimizer in optimizers:
            if has_evaluation_mode(optimizer):
                optimizer.train()
        return optimizers

    @cached_property
    def loss(self) -> Loss:
        """The loss in the settings: ``self.loss(outputs, target)``.

        ``self.loss.unweighted`` is the same loss without class weights, for evaluation.
        """
        if self.settings.loss.name == NO_CLASS:
            raise UserError(
                f"{type(self).__name__} uses self.loss, but loss.name is not set; set it, or "
                "default_loss in the class"
            )
        weighted_by = None
        if "train" in self.loaders:
            weighted_by = self.dataset
        with torch.inference_mode(False):  # its tensors are needed in training as well
            return build_loss(self.settings.loss, self.dataset, self.device, weighted_by)

    @cached_property
    def schedule(self) -> Schedule | None:
        """The function in `scheduler.name`; None if it is a class of torch."""
        options = self.settings.scheduler
        check_span(options, self.options.max_minutes)
        schedule = build_schedule(options, self.total_steps, self.steps_per_epoch)
        if schedule is not None:
            check_schedule(schedule, self.total_steps)
        return schedule

    @cached_property
    def schedulers(self) -> list[LRScheduler]:
        """Schedulers of torch, one for each optimizer; empty if `scheduler.name` is a function."""
        schedulers = build_schedulers(
            self.settings.scheduler, self.optimizers, self.total_steps, self.steps_per_epoch
        )
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            monitor = self.settings.checkpoint.monitor
            check_direction(schedulers, monitor, self.higher_is_better(self.monitored_metric))
        return schedulers

    @cached_property
    def metrics(self) -> Metric:
        """What `configure_metrics` returns, on the device."""
        source = f"{type(self).__name__}.configure_metrics"
        with naming_source(source):
            metrics = self.configure_metrics()
        check_protocol(metrics, source)
        return metrics.to(self.device)

    # What every project defines.

    @abstractmethod
    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The ``loss`` of a batch, a scalar mean over its samples, and other scalars to log.

        It is called for each batch of a step. The values must be finite (see `fit`) unless the
        batch is empty.

        Args:
            model: the module to call. With several processes, it exchanges the gradients of its
                parameters. Those of other parameters that an optimizer trains are averaged after
                the backward pass.
            batch: a transformed batch on the device. If the last batch of an epoch has fewer
                samples than there are processes, some of them get a batch without rows.
        """

    @abstractmethod
    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor] | None:
        """Evaluates a batch, which has at least one sample.

        Returns:
            Scalars by name, means over the samples of the batch, whose means over all samples are
            results. None if the step updates `self.metrics` instead; it may also do both.
        """

    # What a project may override.

    def configure_metrics(self) -> Metric:
        """The metrics that `evaluation_step` updates; by default the mean ``loss``."""
        return MeanLoss()

    def higher_is_better(self, name: str) -> bool:
        """Whether higher values of the metric `name` are better, which decides on the best model.

        `checkpoint.mode` has precedence; of a ``loss``, lower values are better.

        Raises:
            UserError: if neither the metric nor the settings define it.
        """
        mode = self.settings.checkpoint.mode
        if mode is not None:
            return mode == "max"
        if name == "loss":
            return False
        direction = higher_is_better(self.metrics, name)
        if direction is None:
            raise UserError(
                f"checkpoint.monitor = {name!r}: the metric does not define whether higher is "
                "better; set checkpoint.mode=max or checkpoint.mode=min"
            )
        return direction

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One or more optimizers, with the highest learning rate of each parameter group."""
        return build_optimizers(self.model, self.settings)

    def set_learning_rates(self, step: int) -> None:
        """Sets the learning rate of each parameter group before a step.

        It is the rate that `configure_optimizers` set times a factor, which follows from the
        schedule and the number of the step alone, or from the time (see `scheduled_step`). On
        resume, the saved rates are ignored. A scheduler of torch keeps its own state instead, see
        `step_schedulers`.

        Args:
            step: the number of steps before it.
        """
        if self.schedule is not None:
            scale_learning_rates(self.optimizers, self.schedule(self.scheduled_step(step)))

    def scheduled_step(self, step: int) -> int:
        """The step of the schedule that applies to a step of the run, see `scheduler.span`.

        With ``minutes``, it is the same fraction of all steps as the time is of
        `trainer.max_minutes`. Before training, as in the preview, it is the step itself.
        """
        if self.settings.scheduler.span == "steps" or not self.training_time.is_running:
            return step
        return min(int(self.training_time.fraction * self.total_steps), self.total_steps - 1)

    def update(self, step: Step) -> dict[str, Tensor]:
        """One optimizer step: forward, backward, clip, step; by default `optimize`.

        Override it for several passes in a step. Each pass keeps precision, accumulation, clipping
        and the exchange between processes, as in a GAN::

            generator, discriminator = self.optimizers
            outputs = self.optimize(step, discriminator, self.discriminator_step)
            return outputs | self.optimize(step, generator, self.generator_step)

        Args:
            step: the batches, on the device; their gradients are accumulated.

        Returns:
            The scalars of `training_step`, averaged over the samples of this process.
        """
        return self.optimize(step)

    def optimize(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer | None = None,
        training_step: TrainingStep | None = None,
    ) -> dict[str, Tensor]:
        """Forward and backward passes of all batches of a step, then a step of the optimizers.

        Args:
            step: the batches, on the device.
            optimizer: the only optimizer that makes a step; only its parameters get gradients. By
                default, all optimizers make a step.
            training_step: what computes the loss; by default the method `training_step`.

        Returns:
            The scalars of `training_step`, averaged over the samples of this process.
        """
        return optimizer_step.optimize(self, step, optimizer, training_step)

    def compute_gradients(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer | None = None,
        training_step: TrainingStep | None = None,
    ) -> dict[str, Tensor]:
        """Forward and backward passes of all batches of a step; see `optimize`.

        The gradients are means over all samples and processes, times the scale of the scaler.
        """
        return optimizer_step.compute_gradients(self, step, optimizer, training_step)

    def clip_gradients(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Scales the gradients down to `trainer.clip_norm`, and keeps their norm for the log.

        Without clipping, the norm is computed at log entries only.

        Args:
            optimizer: the optimizer whose parameters have the gradients; by default all.
        """
        optimizer_step.clip_gradients(self, optimizer)

    def predict_step(self, model: nn.Module, batch: Batch) -> Any:
        """The model's outputs for a transformed batch on the device, without targets."""
        return model(batch["input"])

    def record_losses(self, outputs: Any, target: Any) -> None:
        """Tells the sampler the loss of each sample of a training batch, if it wants to know.

        Call it in `training_step`; elsewhere it does nothing. A sampler that chooses samples by
        their losses, such as `hard_samples.HardSamples`, has the method `record_losses`.

        Args:
            outputs: of the model.
            target: as the loss requires it.

        Raises:
            UserError: if `loss.name` cannot be computed for each sample.
        """
        training_losses.record_losses(self, outputs, target)

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:  # noqa: B027  need not be defined
        """Called after each optimizer step, with the result of `update`.

        It is not called after a step that `trainer.non_finite=skip` has undone. The moving average,
        if there is one, is updated afterwards, so it contains what this method changes in weights.
        """

    def after_evaluation(  # noqa: B027  need not be defined
        self, split: str, results: Mapping[str, Tensor]
    ) -> None:
        """Called after each validation, for the validation set and for each of the further ones.

        What it changes is saved. If it fails, its changes are undone, and a resumed run validates
        again. Random numbers that it draws do not change those of training.

        Args:
            split: ``validation``, or a name in `data.validation_sets`.
            results: the result of `evaluate`.
        """

    def example_inputs(self, batch: Batch) -> Any:
        """The arguments of the model's `forward` that export.py traces.

        Args:
            batch: a transformed batch of one sample, on the device.

        Returns:
            A tensor, a tuple of tensors, a dict of tensors by parameter of `forward`, or
            `storage.example_inputs.ExampleInputs`, which also names the axes that vary. None if
            the model cannot be exported, except for its weights.
        """
        if isinstance(batch, Mapping) and isinstance(batch.get("input"), Tensor):
            return batch["input"]
        return None

    def exported_model(self, model: nn.Module) -> nn.Module:
        """The module that export.py exports: the model, or another module or part of it.

        Args:
            model: the trained model, in evaluation mode on the CPU.
        """
        return model

    def describe(self, outputs: Any) -> list[list[dict[str, Any]]]:
        """What predict.py prints for each sample: any number of answers, the best first.

        By default, the answer for a sample contains its values of all outputs by name.

        Args:
            outputs: the result of `predict`, tensors of shape (N, ...).
        """
        return answers_by_sample(outputs)

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        """Figures of the results of `evaluate`, by name."""
        return {}

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """Tables of the results of `evaluate`, by name; the first row is the header."""
        return {}

    # The values of single samples.

    def record_samples(self, **values: Tensor) -> None:
        """Keeps values of each sample of the batch; call it in `evaluation_step`.

        evaluate.py writes them to ``predictions.csv``, with the highest ``loss`` first.

        Args:
            **values: by name, each of shape (N,) or (N, K) for the N samples of the batch. The
                shipped trainers call them ``true``, ``predicted``, ``probability`` (of the
                predicted class) and ``loss``.

        Raises:
            UserError: if a value does not have one row for each sample.
        """
        evaluation.record_samples(self, values)

    def samples(self, split: str) -> dict[str, Tensor]:
        """What `record_samples` has kept of the last evaluation of a split; all processes call it.

        Returns:
            Values by name, and the ``index`` of each sample, on the CPU, in the order of the data
            set; empty if there are none.
        """
        if split not in self.sample_values:
            return {}
        return self.sample_values[split].compute()

    def sample_columns(self, samples: Mapping[str, Tensor]) -> Mapping[str, Sequence[Any]]:
        """The columns of ``predictions.csv`` after the names of the samples.

        By default, these are all values of `samples`; classes have their names.
        """
        return columns_of(samples, self.dataset.classes)

    def sample_metrics(self, samples: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Scalars that follow from the values of samples, by name.

        evaluate.py computes them for bootstrap resamples as well, which gives the confidence
        intervals of the results with the same names. Those with other names are further results.
        By default, these are the means of floating-point values, except for predicted and true
        ones.
        """
        return mean_values(samples)

    def ensemble_outputs(self, outputs: Sequence[Any], members: Sequence["BaseTrainer"]) -> Any:
        """The outputs of an ensemble for a batch: the mean of those of its members.

        `evaluation_step` gets them from the model that it calls.

        Args:
            outputs: what `predict` of each member returns, on the CPU.
            members: their trainers; this trainer is the first of them.

        Raises:
            UserError: by default, because outputs can have any meaning.
        """
        raise UserError(
            f"{type(self).__name__} does not define ensemble_outputs, so several runs cannot be "
            "evaluated as an ensemble; evaluate one RUN at a time, or define the method"
        )

    def sample_figures(self, split: str, samples: Mapping[str, Tensor]) -> dict[str, Figure]:
        """Further figures for evaluate.py, by name."""
        return {}

    # The loop.

    def fit(self) -> None:
        """Trains from the current step to the last one, an early stop, or a signal.

        On a signal, training finishes the current step (with several processes, one more), saves
        and returns. If a validation was due at that step, the resumed run makes it first. A signal
        during a validation waits until the step after it. A second signal ends the process at once.

        The outputs of `training_step` are checked at log entries, and the weights before they are
        saved. `storage.non_finite_guard.fit_with_recovery` calls `fit`. After a NonFiniteError it
        returns to the last checkpoint and calls `fit` again, which checks each step up to the
        failed one. With `trainer.non_finite=skip`, the step that caused the value is undone;
        otherwise training ends with an error that names it, and a file with its batch.

        Raises:
            NonFiniteError: if a value is NaN or infinite.
            LoadingError: if a batch cannot be loaded.
            UserError: if the guard has found the step that caused a value, or the first or the
                last checkpoint cannot be saved.
        """
        with (
            StopSignals() as signals,
            StopFlag() as stop_flag,
            self.run_log.open(self.progress.step),
            self.training_time.running(self.progress.step),
            self.checkpointer,
            SavingOnError(self, signals) as saving,
            progress_bar(self.total_steps, self.dataset.title, self.progress.step) as bar,
        ):
            self._start()
            for step in self.meter.time_waiting(self._remaining_steps()):
                saving.begin_step()
                self.set_learning_rates(self.progress.step)
                self._seed_step()
                step = step.to(self.device)
                outputs: dict[str, Tensor] | None
                with naming_invalid_labels(self.loaders["train"], "train", self.progress.step):
                    if self.progress.step < self.guard.checked_until:
                        outputs = self.guard.update(self, step)
                    else:
                        outputs = self.update(step)
                self.progress.step += 1
                if outputs is not None:  # None if the guard has undone the step
                    self.meter.add(outputs, sum(step.sample_counts))
                    self.after_step(outputs)
                # After `after_step`, whose changes it contains; an undone step counts as well.
                if self.moving_average is not None:
                    self.moving_average.update_parameters(self.model)
                bar.update()

                if self.is_log_step(self.progress.step):
                    values = self.log_training()
                    bar.set_postfix_str(format_values(values), refresh=False)
                self.step_schedulers()  # after the log entry, which has the rates of this step
                saving.end_step()
                seconds = self.training_time.seconds
                self.stop_signal = stop_flag.exchange(signals.received, seconds)
                self.training_time.agree_on(stop_flag.seconds, self.progress.step)
                if self.stop_signal:
                    self.save()
                    break
                if self.validation_is_due():
                    self.validate()  # which saves
                elif self.checkpoint_is_due():
                    self.save()
                if self.is_finished():
                    break
        self.checkpointer.raise_failure()

    def stop(self, reason: str) -> None:
        """Ends training after this step, as if it were the last one.

        Args:
            reason: what the log gives as the reason. All processes must stop at the same step.
        """
        self.progress.stop_reason = reason
        log.info("stopping: %s", reason)

    def evaluate(self, split: str) -> dict[str, Tensor]:
        """The metrics of all samples of a split, on the CPU.

        Raises:
            UserError: if the model is sharded and there are fewer samples than processes.
        """
        return evaluation.evaluate(self, split)

    def collect_results(self, means: WeightedMeans) -> dict[str, Tensor]:
        """The results of the metrics, and the means of what `evaluation_step` has returned.

        Raises:
            UserError: if there are none.
        """
        return evaluation.collect_results(self, means)

    def predict(self, batch: Batch) -> Any:
        """The result of `predict_step` for a transformed batch, on the CPU, in float32 at least."""
        return evaluation.predict(self, batch)

    def log_training(self) -> dict[str, float]:
        """Logs the means since the last entry; returns them. The host waits for the device here."""
        values = self.meter.read()
        values |= learning_rates(self.optimizers)
        if self.gradient_norm is not None:
            values["grad_norm"] = self.gradient_norm.item()
        logged_values = {**values, **self.meter.read_speed()}
        logged_values |= self.meter.read_peak_memory(self.device)
        self.run_log.scalars("train", self.epoch, self.progress.step, logged_values)
        log.debug("step %d  %s", self.progress.step, format_values(logged_values))
        self.meter.restart_timer()
        return values

    def validate(self) -> None:
        """Evaluates the validation sets, logs the results, and saves.

        Before it saves, an error leaves the state as it was after the last step.
        """
        all_results = {}
        for split in ("validation", *self.settings.data.validation_sets):
            all_results[split] = self.evaluate(split)
        self.forget_lost_best()
        is_first = self.progress.validated_step == 0
        overrides_hook = type(self).after_evaluation is not BaseTrainer.after_evaluation
        steps_plateau = any(isinstance(each, ReduceLROnPlateau) for each in self.schedulers)
        with undoing_on_error(self, copies_state=overrides_hook or steps_plateau):
            with preserve_global_rng(self.device):
                for split, results in all_results.items():
                    self.after_evaluation(split, results)
            is_best = record_validation(self, all_results)
        self.save(is_best=is_best)  # before the figures, which take time
        log_figures(self, all_results["validation"], is_first)
        self.meter.restart_timer()

    @property
    def monitored_set(self) -> str:
        """The validation set whose metric `checkpoint.monitor` names."""
        validation_set = self.settings.checkpoint.monitor.partition("/")[0]
        if validation_set in self.settings.data.validation_sets:
            return validation_set
        return "validation"

    @property
    def monitored_metric(self) -> str:
        """The metric in `checkpoint.monitor`, without the name of a validation set."""
        monitor = self.settings.checkpoint.monitor
        if self.monitored_set == "validation":
            return monitor
        return monitor.removeprefix(f"{self.monitored_set}/")

    @property
    def criterion(self) -> str:
        """What selects the best checkpoint: the metric, its direction and the data."""
        direction = "lowest"
        if self.higher_is_better(self.monitored_metric):
            direction = "highest"
        data = self.loaders[self.monitored_set].dataset.fingerprint
        if self.settings.subset:
            data += f", {self.settings.subset}"
        return f"{direction} {self.settings.checkpoint.monitor} (data {data})"

    # When something is due.

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.loaders["train"].steps_per_epoch

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = self.options.epochs * self.steps_per_epoch
        if self.options.max_steps is not None:
            steps = min(steps, self.options.max_steps)
        return steps

    @property
    def epoch(self) -> int:
        """The epoch, from 1, of the last step that was made."""
        return self.epoch_of(max(self.progress.step, 1))

    def epoch_of(self, step: int) -> int:
        """The epoch of a step; both count from 1."""
        return (step - 1) // self.steps_per_epoch + 1

    def is_log_step(self, step: int) -> bool:
        """Whether there is a log entry after a step, which counts from 1."""
        return step % self.settings.logger.every_steps == 0 or self._ends_epoch(step)

    def validation_is_due(self) -> bool:
        """Whether a validation follows after the last step, and has not been made."""
        step = self.progress.step
        if self.progress.validated_step >= step:
            return False
        if step == self.total_steps or self.progress.stop_reason or self.training_time.is_up:
            return True
        every_steps = self.options.validate_every_steps
        if every_steps is None:
            every_steps = self.options.validate_every_epochs * self.steps_per_epoch
        return step % every_steps == 0

    def checkpoint_is_due(self) -> bool:
        """Whether to save now, without a validation."""
        settings = self.settings.checkpoint
        if settings.every_steps is None and settings.every_minutes is None:
            return False
        step = self.progress.step
        return self.checkpointer.is_due(step, self.is_log_step(step))

    def is_finished(self) -> bool:
        """Whether all steps are made, or an early stop or the end of the time applies."""
        is_over = (
            self.progress.step >= self.total_steps
            or self.stops_early
            or self.training_time.is_up
            or bool(self.progress.stop_reason)
        )
        return is_over and not self.validation_is_due()

    def was_stopped(self) -> bool:
        """Whether a signal has ended `fit` before the run was finished."""
        return self.stop_signal != 0 and not self.is_finished()

    @property
    def stops_early(self) -> bool:
        """Whether `trainer.early_stop` applies."""
        patience = self.options.early_stop
        if patience is None:
            return False
        return self.progress.validations_without_improvement >= patience

    def describe_early_stop(self) -> str:
        """Why the run ends before its last step, and the best value."""
        return describe_early_stop(self.progress, self.settings.checkpoint.monitor)

    def _ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0 or step == self.total_steps

    # Parts of a step.

    def step_schedulers(self, monitored_value: float | None = None) -> None:
        """Makes a step of each scheduler of torch, if one is due.

        Args:
            monitored_value: the value of `checkpoint.monitor` after a validation, on which
                ReduceLROnPlateau depends.
        """
        is_due = self.settings.scheduler.interval == "step" or self._ends_epoch(self.progress.step)
        for scheduler in self.schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                if monitored_value is not None:
                    scheduler.step(monitored_value)
            elif is_due and monitored_value is None:
                scheduler.step()

    def wrap_model(self) -> nn.Module:
        """The model, wrapped in DDP or FSDP2 if there are several processes.

        DDP exchanges the gradients of the parameters that require them at this time. If this
        changes, assign the result of another call to `parallel_model`. FSDP2 wraps a model once.
        """
        return wrap_for_processes(
            self.model,
            self.device,
            self.sharded,
            self.autocast_dtype,
            self.options.find_unused_parameters,
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the model computes in the autocast dtype."""
        if self.autocast_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def accumulating(self, is_last: bool) -> AbstractContextManager[Any]:
        """The context of one of the batches of a step; processes exchange gradients in the last."""
        if is_last:
            return nullcontext()
        return no_gradient_sync(self.parallel_model)

    @property
    def evaluated_model(self) -> nn.Module:
        """The moving average if there is one, else the model."""
        if self.moving_average is None:
            return self.model
        evaluated_model: nn.Module = self.moving_average.module
        return evaluated_model

    def evaluating(self) -> AbstractContextManager[nn.Module]:
        """The evaluated model, in evaluation mode and, by default, without gradients.

        Afterwards each module is in the mode that it was in, and the random generators are as
        before.
        """
        return evaluation.evaluating(self)

    # Saving and resuming.

    def save(self, is_best: bool = False) -> None:
        """Saves a checkpoint in the run folder.

        Raises:
            NonFiniteError: if a parameter of the model is not finite; nothing is saved then.
        """
        self.forget_lost_best()
        state = self.state_dict()
        check_plain(state)
        self.check_weights(self.progress.step)
        if not self.sharded:
            modules = [p for p in stateful_objects(self).values() if isinstance(p, nn.Module)]
            check_replicas_equal(modules, f"step {self.progress.step}")
        self.checkpointer.save(state, self.progress.step, is_best, self._flush_logs)
        self._saved_progress = self.progress.state_dict()

    def forget_lost_best(self) -> None:
        """Takes back the best value if the last save was that of its checkpoint, and failed."""
        if self.checkpointer.take_lost_best():
            self.progress.undo_improvement()

    def _flush_logs(self) -> None:
        """Makes the log entries and the training time up to this step durable."""
        self.run_log.flush()
        self.training_time.record(self.progress.step)

    def is_saved(self) -> bool:
        """Whether `save` was called for the progress so far; it may have failed to write."""
        return self._saved_progress == self.progress.state_dict()

    def check_weights(self, step: int) -> None:
        """Raises a NonFiniteError if a weight is not finite after a step.

        Buffers may contain infinity on purpose, as a causal mask does.
        """
        check_finite({"model": dict(self.model.named_parameters())}, f"step {step}:")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values.

        Each attribute of the trainer that defines `state_dict` is included under its name: the
        model, its moving average, the optimizers, the metrics, progress, meter, random state and
        whatever the constructor of a subclass adds, also in a list, tuple or dict. The attribute
        needs `load_state_dict` as well. The attributes in `saved_attributes` are included, too, and
        the same of the data set. What differs between processes is saved for each of them.
        """
        self._build_parts()
        return collect_trainer_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the result of `state_dict`, with any number of processes.

        The options of the optimizers come from `configure_optimizers`. Their state is dropped if
        `optimizer.name` has changed.

        Raises:
            UserError: if the model differs, or the run would already have ended.
        """
        self._build_parts()
        self._seed_process()  # if the saved run had fewer processes
        restore_trainer_state(self, state)

    @property
    def dataset(self) -> BaseDataset:
        """The training set, or the only data set of a trainer that does not train."""
        loader = self.loaders.get("train")
        if loader is None:
            (loader,) = self.loaders.values()
        return loader.dataset

    @property
    def excluded_from_data_state(self) -> list[Any]:
        """Attributes of the data set whose state is saved elsewhere.

        They are parts of the trainer, such as the model, and inner data sets with fitted state.
        """
        inner = [item for item in vars(self.dataset).values() if isinstance(item, BaseDataset)]
        return [*stateful_objects(self).values(), *inner]

    @property
    def sampler(self) -> Any:
        """The object of the class in `data.sampler`, whose state the trainer may change.

        A change takes effect in the next epoch. None if the samples are shuffled.
        """
        if self.sample_order is None:
            return None
        return self.sample_order.sampler

    @cached_property
    def saved_example_inputs(self) -> dict[str, Any] | None:
        """The result of `example_inputs` as plain data; floating-point values are zeros."""
        batch = to_device(self.dataset.example_batch, self.device)
        with preserve_global_rng(self.device), torch.no_grad():
            example = self.example_inputs(batch)
        return to_plain_data(example, f"{type(self).__name__}.example_inputs")

    def _build_parts(self) -> None:
        """Builds what has not been used yet, because only existing attributes have a state."""
        _ = self.moving_average, self.parallel_model, self.schedulers, self.metrics

    # Details of the loop.

    def _start(self) -> None:
        """Makes a validation that is still due, or missing figures; saves a new run.

        Saving shows before the first step whether the run folder can be written.
        """
        if self.validation_is_due():  # it failed, or a signal ended the run before it
            # With the learning rate of the last step, so that this checkpoint equals that of an
            # uninterrupted run.
            self.set_learning_rates(self.progress.step - 1)
            self.validate()
        elif self.is_finished():
            log_missing_figures(self)
        if self.progress.step == 0:
            self._seed_process()
            self.progress.compare_by(self.criterion)
            self.save()
            self.checkpointer.finish()
            self.checkpointer.raise_failure(BAD_INPUT)
        self.meter.restart_timer()

    def _remaining_steps(self) -> Iterator[Step]:
        if self.is_finished():
            return iter(())
        return self.loaders["train"].steps(self.progress.step, self.total_steps)

    def _seed_process(self) -> None:
        """Seeds what training draws, differently in each process."""
        seed_torch(*self._update_key, *self._rank_key, device=self.device)

    def _seed_step(self) -> None:
        """Seeds what the next step draws, such as dropout, if loading may have drawn numbers."""
        if self.dataset.uses_global_rng:
            number = self.progress.step + 1
            seed_torch(*self._update_key, number, *self._rank_key, device=self.device)
