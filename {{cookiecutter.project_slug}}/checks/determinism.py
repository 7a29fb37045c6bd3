"""Whether two runs with the same settings give the same bits."""

from collections.abc import Callable

from base.base_trainer import BaseTrainer
from checks.trial import copied, make_step
from checks.verdict import Verdict, list_some
from utils.nested import digest, named_tensors

STEPS = 5


class Record:
    """Digests of the start, the batches and the end of a short run.

    Attributes:
        initial: of each parameter and buffer of the new model.
        batches: of the batches of each step.
        final: of each parameter and buffer of the model after the last step.
    """

    def __init__(self, trainer: BaseTrainer) -> None:
        self.batches: list[str] = []
        with copied(trainer) as trial:
            self.initial = _digests(trial)
            for step in trial.loaders["train"].steps(0, STEPS):
                self.batches.append(digest(step.batches))
                trial.set_learning_rates(trial.progress.step)
                make_step(trial, step)
            self.final = _digests(trial)


def check_determinism(trainer: BaseTrainer, build: Callable[[], BaseTrainer]) -> Verdict:
    """Builds the components again, and makes the first steps with both.

    Args:
        trainer: a new trainer.
        build: builds another one with the same settings.
    """
    verdict = Verdict("determinism")
    first = Record(trainer)
    second = Record(build())
    verdict.figures["steps"] = STEPS
    initial = _differing(first.initial, second.initial)
    if initial:
        verdict.failures.append(
            f"the initial weights differ: {list_some(initial)}; draw them from torch's generator, "
            "which the run seeds"
        )
        return verdict
    for number, (batch, other) in enumerate(zip(first.batches, second.batches, strict=True)):
        if batch != other:
            verdict.failures.append(
                f"the batches differ from step {number + 1} on; draw from the rng of `transform`, "
                "or set uses_global_rng and draw from the global generators"
            )
            return verdict
    final = _differing(first.final, second.final)
    if final and trainer.device.type != "cpu" and not trainer.settings.deterministic:
        verdict.warnings.append(
            f"the weights differ after {STEPS} steps: {list_some(final)}; deterministic=true uses "
            "deterministic kernels only"
        )
    elif final:
        verdict.failures.append(
            f"the weights differ after {STEPS} steps with the same batches: {list_some(final)}; "
            "does training draw from a generator of its own, or depend on the time?"
        )
    return verdict


def _digests(trial: BaseTrainer) -> dict[str, str]:
    state = trial.model.state_dict()
    return {name: digest(tensor) for name, tensor in named_tensors(state)}


def _differing(first: dict[str, str], second: dict[str, str]) -> list[str]:
    return [name for name, value in first.items() if second.get(name) != value]
