"""The base class of samplers that are classes, and not functions."""

from abc import ABC, abstractmethod

from torch import Tensor


class BaseSampler(ABC):
    """Chooses the training samples of each epoch, and their order.

    A constructor takes those of ``dataset``, ``seed``, ``step_size`` and ``samples`` that
    it needs, see data_loader/samplers.py; its further parameters are settings. A function
    in data_loader/ is enough for a sampler without a state.

    A class whose orders depend on what happens in training defines `state_dict`, which
    returns plain data, and `load_state_dict`. Checkpoints contain its state then. A
    trainer changes it through its attribute `sampler`, in the same way in all processes,
    for example in `after_evaluation`. A change takes effect in the next epoch.

    A class may define ``record_losses(indices, losses)``. It is called for each training
    batch, in all processes, with the indices (int64) and losses (float32) of the samples
    of all processes, shape (B,). The trainer's `training_step` has to call the trainer's
    `record_losses` for that, as `Classifier` and `Regressor` do.
    """

    @abstractmethod
    def __call__(self, epoch: int) -> Tensor:
        """The indices of the samples of an epoch, in order: int64, shape (N,).

        N must be the same for all epochs. The indices may depend only on the arguments of
        the constructor, `epoch`, and the state if there is one, which this method must
        not change. It may draw from the global generators, which are seeded by the seed
        of the run and `epoch`.

        Args:
            epoch: number of the epoch, from 0.
        """
