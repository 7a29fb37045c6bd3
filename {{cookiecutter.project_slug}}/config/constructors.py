"""Objects of the classes that settings name."""

import importlib
import inspect
from typing import Any

from config.schema import ClassSection
from utils.errors import USER_CODE_ERRORS, UserError, explain


def construct(options: ClassSection, base: type, *arguments: Any, **wanted: Any) -> Any:
    """An object of the class that a section names, which is in its folder and nowhere else.

    Its constructor is given the `arguments`, and what it has asked for of those by name.

    Raises:
        UserError: if the class does not derive from `base`, or its constructor fails.
    """
    file, _, name = options.name.partition(".")
    found = getattr(importlib.import_module(f"{options.package}.{file}"), name)
    if not issubclass(found, base):
        place = f"{options.package}/{file}.py"
        raise UserError(f"{place}: {name} does not derive from {base.__name__}")
    try:
        wanted = {k: wanted[k] for k in inspect.signature(found).parameters if k in wanted}
        return found(*arguments, **wanted, **options.model_dump(include=options.arguments))
    except USER_CODE_ERRORS as error:
        raise UserError(f"{options.name} cannot be made: {explain(error)}") from error
