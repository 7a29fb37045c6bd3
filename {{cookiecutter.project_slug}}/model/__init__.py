"""Networks and losses."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from base.base_model import BaseModel
from config.reference import load_class
from config.schema import Settings
from logger.console import log
from storage.checkpoint import load_first, trained_weights
from storage.run_folder import find_checkpoints
from utils.errors import UserError


def build_model(settings: Settings, state: Mapping[str, Any] | None = None) -> BaseModel:
    """The network that the settings name: a new one, or the trained one of a checkpoint.

    A new one starts from `model.init_from` and is partly frozen, if the settings say so.
    """
    options = settings.model
    model = load_class("model", options.name, BaseModel)(**(options.model_extra or {}))
    if state is not None:
        try:
            model.load_state_dict(trained_weights(state))
        except RuntimeError as error:  # which lists what is missing, unexpected, of other shapes
            lines = [shorten(line, 150, placeholder=" ...") for line in str(error).splitlines()[1:]]
            text = "\n  ".join([*lines[:5], f"and {len(lines) - 5} more"][: len(lines)])
            raise UserError(f"the checkpoint is not of this model:\n  {text}") from error
    elif options.init_from is not None:
        _take_weights(model, options.init_from)
    model.freeze(options.freeze)
    return model


def _take_weights(model: BaseModel, source: Path) -> None:
    """Copies the weights whose name and shape fit, and says which are left as they were."""
    found = trained_weights(load_first(find_checkpoints(source))[1])
    own = model.state_dict()
    fitting = {n: w for n, w in found.items() if n in own and w.shape == own[n].shape}
    if not fitting:
        raise UserError(f"model.init_from = {source}: no weights there that fit this model")
    model.load_state_dict(fitting, strict=False)
    left = own.keys() - fitting.keys()
    log.info("%d weights from %s; as they were: %s", len(fitting), source, sorted(left))
