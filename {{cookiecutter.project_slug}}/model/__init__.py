"""Networks and losses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from base.base_model import BaseModel
from config.arguments import load_class
from config.schema import Settings
from logger.console import log
from storage.checkpoint import load_checkpoint, trained_weights
from storage.run_folder import find_checkpoint
from utils.errors import UserError


def build_model(settings: Settings) -> BaseModel:
    """The network that the settings name, started from `model.init_from` and partly frozen."""
    options = settings.model
    model = load_class("model", options.name, BaseModel)(**options.arguments)
    if options.init_from is not None:
        _take_weights(model, options.init_from)
    model.freeze(options.freeze)
    return model


def restore_model(settings: Settings, state: Mapping[str, Any]) -> BaseModel:
    """The trained network of a checkpoint, as its evaluation used it."""
    model = load_class("model", settings.model.name, BaseModel)(**settings.model.arguments)
    try:
        model.load_state_dict(trained_weights(state))
    except RuntimeError as error:
        raise UserError(f"the checkpoint does not fit {settings.model.name}: {error}") from error
    return model


def _take_weights(model: BaseModel, source: Path) -> None:
    """Copies the weights whose name and shape fit, and says which are left as they were."""
    if source.suffix == ".safetensors":
        found = load_file(source) if source.is_file() else {}
    else:
        found = trained_weights(load_checkpoint(find_checkpoint(source)))
    own = model.state_dict()
    fitting = {n: w for n, w in found.items() if n in own and w.shape == own[n].shape}
    if not fitting:
        raise UserError(f"model.init_from = {source}: no weights there that fit this model")
    model.load_state_dict(fitting, strict=False)
    left = ", ".join(sorted(own.keys() - fitting.keys())) or "none"
    log.info("%d weights taken from %s; left as they were: %s", len(fitting), source, left)
