"""Networks of torchvision, trained before by others, with a head of one's own."""

import difflib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from utils.errors import DATA_UNAVAILABLE, USER_CODE_ERRORS, UserError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


class Backbone(BaseModel):
    """A network for colour images, `network`, whose last layer is replaced by `head`.

    Args:
        dataset: what it is for: classes.
        architecture: A classifier of torchvision.models, such as resnet18 or vit_b_16.
        weights: "none", "pretrained" (ImageNet's, downloaded once), or a file of such weights.

    Raises:
        UserError: if there is no such architecture, or no such weights.
    """

    def __init__(
        self, dataset: BaseDataset, architecture: str = "resnet18", weights: str = "none"
    ) -> None:
        super().__init__()
        from torchvision import models  # takes seconds to import

        if architecture not in (known := models.list_models(module=models)):
            near = difflib.get_close_matches(architecture, known, cutoff=0.3)
            text = f"torchvision has no such one; did you mean {', '.join(near) or 'resnet18'}?"
            raise UserError(f"model.architecture = {architecture!r}: {text}")
        self.architecture, self.weights = architecture, weights
        self.network = models.get_model(architecture, weights=None)
        layers = [(k, m) for k, m in self.network.named_modules() if isinstance(m, nn.Linear)]
        if not layers:
            raise UserError(f"model.architecture = {architecture!r}: it does not end in a layer")
        self.last, layer = layers[-1]
        self.network.set_submodule(self.last, nn.Identity())
        self.head = nn.Linear(layer.in_features, len(dataset.classes))

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), of images, shape (N, 3, H, W)."""
        features = self.network(input)
        if not isinstance(features, Tensor):  # with logits beside them, in training
            features = features[0]
        logits: Tensor = self.head(features)
        return logits

    def initialize(self) -> None:
        """Takes the weights that are asked for, but for those of the layer that is replaced."""
        if self.weights == "none":
            return
        file = Path(self.weights)
        if self.weights == "pretrained":
            from torchvision import models

            file = fetch(models.get_model_weights(self.architecture).DEFAULT)
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
            kept = {k: v for k, v in found.items() if not k.startswith(f"{self.last}.")}
            self.network.load_state_dict(kept)
        except (*USER_CODE_ERRORS, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:150]
            if isinstance(error, pickle.UnpicklingError):  # torch would advise to run it
                reason = "it holds more than plain data, or something else"
            text = f"model.weights = {self.weights!r}: {file} holds no weights of "
            raise UserError(f"{text}{self.architecture}; {reason}") from error


def fetch(weights: "WeightsEnum") -> Path:
    """The file of torchvision's weights in torch's cache, downloaded if it is not there.

    Raises:
        UserError: with exit code 69, naming file and folder, if they cannot be had.
    """
    folder, url = Path(torch.hub.get_dir()) / "checkpoints", str(weights.url)
    try:
        weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        by_hand = f"By hand: put {url} into {folder}, or name the file by model.weights"
        text = f"the weights cannot be downloaded ({error})\n{by_hand}"
        raise UserError(text, DATA_UNAVAILABLE) from error
    return folder / url.rpartition("/")[2]
