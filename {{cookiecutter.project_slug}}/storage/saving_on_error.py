"""Saving on error: what a run keeps when an error ends training."""

from typing import Any

from logger.console import log
from utils.command import next_command
from utils.errors import LoadingError, NonFiniteError, first_line, is_lost_connection
from utils.process_group import all_processes_fail
from utils.ranks import world_size
from utils.signals import StopSignals


class SavingOnError:
    """Within this context, an error saves the state after the last completed step.

    A step that fails has changed a part of the state, such as the statistics of batch
    normalisation. The last checkpoint then stays, and a resumed run repeats the steps since then.
    Several processes save only if all of them fail between the same steps.

    Args:
        trainer: a `BaseTrainer`.
        signals: those that this process receives. A terminal sends its signals to the workers as
            well, which end. After a signal, a LoadingError of a single process is therefore no
            error.
    """

    def __init__(self, trainer: Any, signals: StopSignals) -> None:
        self.trainer = trainer
        self.signals = signals
        self._in_step = False

    def __enter__(self) -> "SavingOnError":
        return self

    def begin_step(self) -> None:
        """From here on, the state is that of no completed step."""
        self._in_step = True

    def end_step(self) -> None:
        """The step is complete, with all that belongs to it."""
        self._in_step = False

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        """Saves after an error; whether a signal has caused it.

        Raises:
            NonFiniteError: if the state is not finite, which has probably caused the error.
        """
        if error is None:
            return False
        self.trainer.stop_signal = self.signals.received
        is_checked = self.trainer.progress.step < self.trainer.guard.checked_until
        if isinstance(error, NonFiniteError) or (self._in_step and is_checked):
            return False  # fit_with_recovery, or the error of the guard, says what follows
        if self.trainer.progress.step > 0 or self._in_step:
            self._keep_state(error)
        is_from_worker = isinstance(error, LoadingError) and world_size() == 1
        return is_from_worker and self.signals.received != 0

    def _keep_state(self, error: BaseException) -> None:
        """Saves the state if it is that of a completed step; logs how to resume."""
        step = self.trainer.progress.step
        resume = f"resume: {next_command('train.py', '--resume', self.trainer.run)}"
        can_save = not self._in_step and not is_lost_connection(error)
        if can_save and all_processes_fail(f"after step {step}"):
            problem = self._save()
            if not problem:
                log.info("the state after step %d is saved; %s", step, resume)
                return
            log.warning("the state after step %d could not be saved: %s", step, problem)
        self.trainer.checkpointer.finish()
        saved_steps = self.trainer.checkpointer.saved_steps()
        if saved_steps:
            log.info(
                "the last checkpoint is that of step %d, and a resumed "
                "run repeats the steps since then (checkpoint.every_steps "
                "and every_minutes save more often); %s",
                max(saved_steps),
                resume,
            )

    def _save(self) -> str:
        """Saves the state unless it is saved; why that is impossible, or an empty text."""
        try:
            if not self.trainer.is_saved():
                self.trainer.save()
            self.trainer.checkpointer.finish()
        except NonFiniteError:
            raise
        except Exception as error:  # such as the memory that was missing before
            log.debug("traceback of the error", exc_info=True)
            return first_line(error)
        return self.trainer.checkpointer.failure
