"""Fine-tuning of classifiers of the library `transformers`."""

from typing import Any

from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from storage.example_inputs import ExampleInputs


class FineTuner(BaseTrainer):
    """Trains a model that takes a batch by keywords, and computes the loss itself."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": model(**batch).loss}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(**batch)
        is_correct = outputs.logits.argmax(1) == batch["labels"]
        return {"loss": outputs.loss, "accuracy": is_correct.float().mean()}

    def predict_step(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits, shape (N, C)."""
        return model(batch["input_ids"], batch["attention_mask"]).logits

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        """The most probable class of each sentence."""
        answers = []
        probabilities, indices = outputs.softmax(1).max(1)
        for probability, index in zip(probabilities, indices, strict=True):
            name = self.dataset.classes[int(index)]
            answers.append([{"class": name, "probability": probability.item()}])
        return answers

    def example_inputs(self, batch: Batch) -> ExampleInputs:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        axes = {1: "length"}
        return ExampleInputs(inputs, dynamic={"input_ids": axes, "attention_mask": axes})
