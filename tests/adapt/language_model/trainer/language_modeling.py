"""Training of language models."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from data_loader.sentences import LENGTH, Sentences
from logger.console import log
from metrics.protocol import Metric
from storage.example_inputs import ExampleInputs
from utils.ranks import is_main_process

PROMPT = "the cat"
NEW_WORDS = 20


class LanguageModeling(BaseTrainer):
    """Trains a network to predict each word of a text; writes a text after each validation."""

    dataset: Sentences

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["tokens"][:, :-1]).float()
        return {"loss": cross_entropy(logits.transpose(1, 2), batch["tokens"][:, 1:])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits = model(batch["tokens"][:, :-1]).float()
        self.metrics.update(logits, batch["tokens"][:, 1:])

    def configure_metrics(self) -> Metric:
        from torchmetrics import MetricCollection
        from torchmetrics.text import Perplexity

        return MetricCollection({"perplexity": Perplexity()})

    def predict_step(self, model: nn.Module, batch: Batch) -> Tensor:
        """The tokens, and those that follow, drawn one after another from the model's output."""
        tokens = batch["tokens"]
        for _ in range(NEW_WORDS):
            logits = model(tokens[:, -LENGTH:])[:, -1]
            next_token = torch.multinomial(logits.float().softmax(1), 1)
            tokens = torch.cat([tokens, next_token], dim=1)
        return tokens

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        return [[{"text": self.dataset.decode(tokens)}] for tokens in outputs]

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        """Continues the prompt, for the log and for a file in the run folder."""
        outputs = self.predict({"tokens": self.dataset.encode(PROMPT.split())[None]})
        text = self.dataset.decode(outputs[0])
        log.info("%s", text)
        if is_main_process():
            folder = self.run / "texts"
            folder.mkdir(exist_ok=True)
            (folder / f"step_{self.progress.step:08d}.txt").write_text(text, encoding="utf-8")

    def example_inputs(self, batch: Batch) -> ExampleInputs:
        return ExampleInputs(batch["tokens"][:, :-1], dynamic={"tokens": {1: "length"}})
