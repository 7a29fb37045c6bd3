"""Networks of torchvision, with pretrained weights and a new last layer."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from storage.weights import match_weights, read_weights
from utils.errors import DATA_UNAVAILABLE, USER_CODE_ERRORS, UserError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

MAX_REASON_LENGTH = 150  # characters of PyTorch's message in an error message


class Backbone(BaseModel):
    """A classifier of torchvision for colour images, whose last linear layer `head` replaces.

    Args:
        dataset: data set that defines the classes.
        architecture: A classifier of torchvision.models, such as resnet18 or vit_b_16.
        weights: "none", "pretrained" (on ImageNet, downloaded once), or a file of such weights.

    Raises:
        UserError: if torchvision has no such architecture, or it has no linear layer.
    """

    def __init__(
        self, dataset: BaseDataset, architecture: str = "resnet18", weights: str = "none"
    ) -> None:
        super().__init__()
        from torchvision import models  # imported here, as this takes seconds

        known = models.list_models(module=models)
        if architecture not in known:
            similar = difflib.get_close_matches(architecture, known, cutoff=0.3) or ["resnet18"]
            raise UserError(
                f"model.architecture = {architecture!r} is not a classifier of torchvision.models; "
                f"did you mean {', '.join(similar)}?"
            )
        self.architecture = architecture
        self.weights = weights
        self.network = models.get_model(architecture, weights=None)

        modules = self.network.named_modules()
        linear_layers = [(name, part) for name, part in modules if isinstance(part, nn.Linear)]
        if not linear_layers:
            raise UserError(
                f"model.architecture = {architecture!r} has no linear layer to replace; "
                "choose an architecture with one, such as resnet18"
            )
        self.replaced_layer, last_layer = linear_layers[-1]
        self.network.set_submodule(self.replaced_layer, nn.Identity())
        self.head = nn.Linear(last_layer.in_features, len(dataset.classes))

    def forward(self, input: Tensor) -> Tensor:
        """Computes logits, shape (N, classes), from images, shape (N, 3, H, W)."""
        features = self.network(input)
        if not isinstance(features, Tensor):  # GoogLeNet and Inception also return auxiliary logits
            features = features[0]
        logits: Tensor = self.head(features)
        return logits

    def initialize(self) -> None:
        """Loads the weights that `weights` names, except those of the replaced layer.

        Raises:
            UserError: if the weights cannot be downloaded (exit code 69), or the file cannot be
                read or does not contain weights of this architecture.
        """
        if self.weights == "none":
            return
        if self.weights == "pretrained":
            from torchvision import models

            file = download_weights(models.get_model_weights(self.architecture).DEFAULT)
        else:
            file = Path(self.weights)
        try:
            self._load_weights(file)
        except (UserError, *USER_CODE_ERRORS) as error:
            reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
            raise UserError(self._loading_problem(file, reason)) from error

    def _load_weights(self, file: Path) -> None:
        prefix = f"{self.replaced_layer}."
        match = match_weights(self.network.state_dict(), read_weights(file))
        unused = [name for name in match.unused if prefix not in name]
        missing = [name for name in match.missing if not name.endswith("num_batches_tracked")]
        if missing or match.other_shapes or unused:
            raise ValueError(match.describe())
        self.network.load_state_dict(match.fitting, strict=False)

    def _loading_problem(self, file: Path, reason: str) -> str:
        return (
            f"model.weights = {self.weights!r}: cannot load weights of {self.architecture} from "
            f"{file}: {reason}\nallowed are none, pretrained, and a file of such weights"
        )


def download_weights(weights: "WeightsEnum") -> Path:
    """Downloads weights of torchvision into torch's cache, unless they are there.

    Returns:
        The file in the cache.

    Raises:
        UserError: if the download fails, with exit code 69.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    url = str(weights.url)
    try:
        weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model.weights = 'pretrained': the weights cannot be downloaded ({error})\n"
            f"By hand: put {url} into {folder}, or set model.weights to the file",
            DATA_UNAVAILABLE,
        ) from error
    return folder / url.rpartition("/")[2]
