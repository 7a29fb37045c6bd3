"""The abstract sampler: an order of the training samples that needs a class."""

from abc import ABC, abstractmethod

from torch import Tensor


class BaseSampler(ABC):
    """Chooses the training samples of each epoch, and their order.

    A constructor takes those of ``dataset``, ``seed``, ``step_size`` and ``samples`` that it needs,
    see data_loader/samplers.py; its further parameters are settings. A function in data_loader/ is
    enough for a sampler without a state.

    A class whose orders depend on what happens in training defines `state_dict`, which returns
    plain data, and `load_state_dict`. Checkpoints contain its state then. A trainer changes it
    through its attribute `sampler`, in the same way in all processes, for example in
    `after_evaluation`. A change takes effect in the next epoch.

    A class that defines ``record_losses(indices, losses)`` is told the losses of each training
    batch, of the samples of all processes: int64 and float32, shape (N,). The trainer's
    `training_step` has to call the trainer's `record_losses`, as `Classifier` and `Regressor` do.
    """

    @abstractmethod
    def __call__(self, epoch: int) -> Tensor:
        """The indices of the samples of an epoch, in order: int64, shape (N,).

        N is the same for all epochs. The indices depend only on the arguments of the constructor,
        `epoch`, and the state if there is one, which the call leaves as it is. Numbers that are
        drawn from the global generators depend only on the seed of the run and `epoch`.

        Args:
            epoch: number of the epoch, from 0.
        """
