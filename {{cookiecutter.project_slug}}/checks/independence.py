"""Whether samples are independent of each other, and targets belong to their inputs."""

from base.base_trainer import BaseTrainer
from checks.batch_loss import check_batch_loss
from checks.labels import check_labels
from checks.neighbours import MIN_SAMPLES, check_neighbours
from checks.trial import copied
from checks.verdict import Skipped, Verdict


def check_independence(trainer: BaseTrainer) -> Verdict:
    """Compares outputs and losses in different batches; trains with the targets, and with others.

    Raises:
        Skipped: if there are too few samples.
    """
    verdict = Verdict("independence")
    if len(trainer.dataset) < MIN_SAMPLES:
        raise Skipped(f"there are only {len(trainer.dataset)} samples")
    reasons = []
    for part in (check_neighbours, check_batch_loss, check_labels):
        try:
            with copied(trainer) as trial:
                part(verdict, trial)
        except Skipped as reason:
            reasons.append(str(reason))
        if verdict.failures:  # the other parts would fail for the same reason
            break
    if not verdict.figures:
        verdict.reason = "; ".join(reasons)
    return verdict
