"""Optimizers, schedules and the average of the weights."""
# ruff: noqa: D103  the names of the tests say what they test

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch
from builders import build_model
from storage.state import evaluation_weights, load_checkpoint
from trainer.classifier import Classifier

MakeTrainer = Callable[..., Any]
Logged = Callable[..., list[float]]
SMALL = ("model.name=networks.MLP", "model.width=16")


class Watched(Classifier):
    """Notes the learning rate of each step and the model after it."""

    seen_rates: list[float]
    seen_models: list[dict[str, Tensor]]

    def update(self, batches: Sequence[Batch]) -> None:
        if self.step == 1:
            self.seen_rates, self.seen_models = [], []
        self.seen_rates.append(self.optimizers[0].param_groups[0]["lr"])
        super().update(batches)
        self.seen_models.append({name: w.clone() for name, w in self.model.state_dict().items()})


def whole(dataset: BaseDataset) -> Batch:
    """All samples in one batch."""
    return dataset.transform(dataset.__getitems__(torch.arange(len(dataset))), None)


def mean_loss(trainer: Classifier, batch: Batch) -> float:
    """The loss of a batch as it is."""
    return nn.functional.cross_entropy(trainer.predict(batch), batch["target"]).item()


def test_each_optimizer_lowers_the_loss(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    batch = whole(splits["train"])
    for name, rate in (("SGD", 0.1), ("AdamW", 0.01), ("RMSprop", 0.001), ("Muon", 0.05)):
        trainer = make_trainer(*SMALL, f"optimizer.name={name}", f"optimizer.lr={rate}")
        before = mean_loss(trainer, batch)
        for _ in range(15):
            trainer.update([batch])
        assert mean_loss(trainer, batch) < 0.9 * before, name


def test_optimizers_compute_what_torchs_own_do(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    batch = whole(splits["train"])
    for name in ("SGD", "AdamW", "RMSprop", "Muon"):
        ours, theirs = (
            make_trainer(f"optimizer.name={name}"),
            make_trainer(f"optimizer.name={name}"),
        )
        parents = [(type(o).__mro__[1], o.param_groups) for o in theirs.optimizers]
        theirs.optimizers = [parent(groups) for parent, groups in parents]
        for trainer in (ours, theirs, ours, theirs, ours, theirs):
            trainer.update([batch])
        weights = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in weights), name


def test_hooks_that_would_not_be_called_are_refused(make_trainer: MakeTrainer) -> None:
    (optimizer,) = make_trainer(*SMALL).optimizers
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        with pytest.raises(ValueError, match=r"not called here; override BaseTrainer\.update"):
            register(print)


def test_muon_trains_matrices_and_adamw_all_else(make_trainer: MakeTrainer) -> None:
    changes = ("optimizer.name=Muon", "optimizer.lr=0.03", "optimizer.adamw_lr=0.002")
    trainer = make_trainer(*changes)
    muon, adamw = (optimizer.param_groups[0] for optimizer in trainer.optimizers)
    assert [p.shape for p in muon["params"]] == [(10, 64)]
    assert len(adamw["params"]) == len(list(trainer.model.parameters())) - 1
    assert (muon["lr"], adamw["lr"]) == (0.03, 0.002)


def test_clipping_bounds_the_gradient(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    batch, moved = whole(splits["train"]), {}
    for norm in ("0.01", "null"):
        plain_sgd = "optimizer={name: SGD, lr: 1.0, momentum: 0.0}"
        trainer = make_trainer(*SMALL, plain_sgd, f"trainer.clip_norm={norm}")
        before = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
        trainer.update([batch])
        after = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
        moved[norm] = (after - before).norm().item()  # at a rate of 1, the gradient
    assert moved["0.01"] == pytest.approx(0.01, rel=1e-3)
    assert moved["null"] > 0.1


def test_another_optimizer_begins_anew(make_trainer: MakeTrainer) -> None:
    first, second = make_trainer(), make_trainer("optimizer.name=AdamW")
    first.fit()
    second.load_state_dict(load_checkpoint(first.run / "checkpoints/step_00000016.pt"))
    second.fit()
    assert {state["step"].item() for state in second.optimizers[0].state.values()} == {16}


def test_learning_rates_follow_their_schedules(make_trainer: MakeTrainer, logged: Logged) -> None:
    # Four steps in each of three epochs, at a highest rate of 0.2; k counts steps from 0.
    def warm_up(k: int) -> float:
        return 0.1 + 0.9 * (k + 1) / 4

    schedules: dict[str, Callable[[int], float]] = {
        "{name: constant}": lambda k: 1,
        "{name: step, epochs: 2, factor: 0.3}": lambda k: 1 if k < 8 else 0.3,
        "{name: exponential, factor: 0.5}": lambda k: [1, 0.5, 0.25][k // 4],
        "{name: cosine, warmup: 0.25, start: 0.1, final: 0.02}": lambda k: (
            warm_up(k) if k < 3 else 0.02 + 0.98 * (1 + math.cos(math.pi * (k - 3) / 9)) / 2
        ),
        "{name: one_cycle, warmup: 0.25, start: 0.1, final: 0.02}": lambda k: (
            warm_up(k) if k < 3 else 1 - 0.98 * (k - 3) / 9
        ),
    }
    for schedule, share in schedules.items():
        changes = ("data.batch_size=200", "trainer.epochs=3", "logger.every_steps=1")
        trainer = make_trainer(
            *SMALL, *changes, "optimizer.lr=0.2", f"scheduler={schedule}", kind=Watched
        )
        trainer.fit()
        wanted = [0.2 * share(k) for k in range(12)]
        assert trainer.seen_rates == pytest.approx(wanted, rel=1e-6), schedule
        assert logged(trainer.run, "train", "lr") == pytest.approx(wanted, rel=1e-6), schedule
        (trainer.run / "metrics.csv").unlink()


def test_the_average_of_the_weights_is_kept_saved_and_evaluated(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    trainer = make_trainer("trainer.ema=0.75", "trainer.max_steps=4", kind=Watched)
    trainer.fit()
    first, *others = trainer.seen_models
    average = {name: w.clone() for name, w in first.items() if w.is_floating_point()}
    for weights in others:
        average = {name: 0.75 * a + 0.25 * weights[name] for name, a in average.items()}

    saved = evaluation_weights(load_checkpoint(trainer.run / "checkpoints/last.pt"))
    assert all(torch.allclose(saved[name], a, atol=1e-6) for name, a in average.items())
    assert not torch.allclose(saved["head.weight"], others[-1]["head.weight"])

    model = build_model(trainer.settings, trainer.dataset).eval()
    model.load_state_dict(average, strict=False)
    batch = whole(trainer.loaders["validation"].dataset)
    loss = nn.functional.cross_entropy(model(batch["input"]), batch["target"]).item()
    assert logged(trainer.run, "validation", "loss") == [pytest.approx(loss, rel=1e-4)]
