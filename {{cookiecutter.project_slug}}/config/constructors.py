"""Objects of the classes that settings name."""

import importlib
import inspect
from typing import Any

from config.schema import ClassSection
from utils.errors import USER_CODE_ERRORS, UserError, describe_error


def construct(options: ClassSection, base: type, **wanted: Any) -> Any:
    file, _, name = options.name.partition(".")
    found = getattr(importlib.import_module(f"{options.package}.{file}"), name)
    if not issubclass(found, base):
        place = f"{options.package}/{file}.py"
        raise UserError(f"{place}: {name} does not derive from {base.__name__}")
    try:
        wanted = {k: wanted[k] for k in inspect.signature(found).parameters if k in wanted}
        return found(**wanted, **options.model_dump(include=options.arguments))
    except USER_CODE_ERRORS as error:
        raise UserError(f"{options.name} cannot be built: {describe_error(error)}") from error
