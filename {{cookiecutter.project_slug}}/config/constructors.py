"""Derives the settings of a class from the signature of its constructor, and constructs it."""

import collections.abc
import dataclasses
import functools
import importlib
import inspect
import json
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, TypeVar

import pydantic

from config.classes import find_class, is_project_class
from config.schema import ClassSection
from utils.errors import USER_CODE_ERRORS, UserError, describe_error

T = TypeVar("T")

ARGUMENTS_CONFIG = pydantic.ConfigDict(
    strict=True, extra="forbid", frozen=True, allow_inf_nan=False
)


# Parameters


def constructor_parameters(component: Any) -> dict[str, Parameter]:
    """The parameters of a function or of the constructor of a class.

    They include those that ``**kwargs`` passes to base classes: the method resolution order is
    followed as long as each ``__init__`` accepts ``**kwargs``. If the last one does, ``**kwargs``
    itself is the last parameter. Annotations that are text (from ``from __future__ import
    annotations``) are evaluated where possible.
    """
    if not isinstance(component, type):
        return _function_parameters(component)
    parameters: dict[str, Parameter] = {}
    rest: Parameter | None = None
    for owner in component.__mro__:
        if "__init__" not in vars(owner):
            continue
        own = _init_parameters(owner)
        kinds = [parameter.kind for parameter in own]
        for parameter in own:
            if parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                parameters.setdefault(parameter.name, parameter)
        if Parameter.VAR_KEYWORD not in kinds:
            rest = None
            break
        # (*args, **kwargs), as nn.Module and object have them, document no arguments.
        if Parameter.VAR_POSITIONAL not in kinds:
            rest = own[-1]
    if rest is not None:
        parameters[rest.name] = rest
    return parameters


def _function_parameters(function: Any) -> dict[str, Parameter]:
    names = getattr(inspect.unwrap(function), "__globals__", {})
    parameters = {}
    for parameter in _signature(function).parameters.values():
        annotation = _evaluate(parameter.annotation, names, {})
        parameters[parameter.name] = parameter.replace(annotation=annotation)
    return parameters


def _init_parameters(owner: type) -> list[Parameter]:
    """The parameters of the ``__init__`` that a class defines itself, without ``self``."""
    function: Any = owner.__init__  # type: ignore[misc]
    try:
        signature = _signature(function)
    except ValueError:  # implemented in C, without a signature
        return []
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind in (
        Parameter.POSITIONAL_ONLY,
        Parameter.POSITIONAL_OR_KEYWORD,
    ):
        del parameters[0]
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return [
        parameter.replace(annotation=_evaluate(parameter.annotation, names, vars(owner)))
        for parameter in parameters
    ]


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info < (3, 14):
        return inspect.signature(function)
    # By default, 3.14 evaluates all annotations, and raises for names under TYPE_CHECKING.
    formats = importlib.import_module("annotationlib").Format
    return inspect.signature(function, annotation_format=formats.FORWARDREF)


def _evaluate(annotation: Any, names: dict[str, Any], class_names: Mapping[str, Any]) -> Any:
    if isinstance(annotation, str):
        try:
            # From the source of the project or of a library, which may import names of
            # collections.abc for type checkers only.
            annotation = eval(annotation, {**vars(collections.abc), **names}, class_names)
        except Exception:
            return annotation
    if isinstance(annotation, dataclasses.InitVar):
        return annotation.type
    return annotation


# Settings


@dataclass(frozen=True)
class ClassSettings:
    """The settings of a class.

    Attributes:
        model: a pydantic model with one field for each setting, whose alias is its name.
        unusable: why a parameter is not a setting, by its name.
        unfillable: the unusable parameters without a default: the class cannot be constructed.
    """

    model: type[pydantic.BaseModel]
    unusable: dict[str, str]
    unfillable: list[str]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by the names of the settings."""
        return {str(field.alias): field for field in self.model.model_fields.values()}


@functools.cache  # 12 ms instead of 35 for each of many settings
def class_settings(cls: type, section: type[ClassSection], name: str) -> ClassSettings:
    """Derives the settings of a class from the parameters of its constructor.

    Args:
        cls: the class.
        section: the kind of section that names it.
        name: the name of the class in the settings, for messages.
    """
    fields: dict[str, Any] = {}
    unusable: dict[str, str] = {}
    unfillable: list[str] = []
    parameters = list(constructor_parameters(cls).values())
    if not isinstance(cls, type):
        del parameters[: section.positional]
    for parameter in parameters:
        if parameter.name in section.given or parameter.kind is Parameter.VAR_KEYWORD:
            continue
        parameter = _with_plain_annotation(parameter, cls, section)
        problem = _why_not_a_setting(parameter, section)
        if problem is None:
            # No attribute of BaseModel has such a name, whatever the parameter is called.
            key = f"argument_{parameter.name}"
            fields[key] = (parameter.annotation, _field(cls, parameter))
            continue
        unusable[parameter.name] = f"the parameter `{parameter.name}` of {name} {problem}"
        if parameter.default is Parameter.empty:
            unfillable.append(parameter.name)
    model = pydantic.create_model(cls.__name__, __config__=ARGUMENTS_CONFIG, **fields)
    return ClassSettings(model, unusable, unfillable)


def _with_plain_annotation(
    parameter: Parameter, component: Any, section: type[ClassSection]
) -> Parameter:
    """The parameter with the annotation that its setting has.

    For a class of a library, tensors in it, as in ``float | Tensor``, are left out, other iterables
    are lists, and a missing annotation is replaced by the type of the default.
    """
    if parameter.name in section.argument_types:
        return parameter.replace(annotation=section.argument_types[parameter.name])
    if is_project_class(component):
        return parameter
    if parameter.annotation is Parameter.empty:
        return parameter.replace(annotation=_type_of_default(parameter.default))
    return parameter.replace(annotation=_without_tensors(parameter.annotation))


def _without_tensors(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    if not arguments:
        return annotation
    kept = [_without_tensors(argument) for argument in arguments if not _is_tensor(argument)]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, kept)
    if origin is tuple:
        return types.GenericAlias(tuple, tuple(kept))
    if origin in (collections.abc.Iterable, collections.abc.Sequence):
        return types.GenericAlias(list, tuple(kept))
    return annotation


def _is_tensor(annotation: Any) -> bool:
    return getattr(annotation, "__module__", "") == "torch" and annotation.__name__ == "Tensor"


def _type_of_default(default: Any) -> Any:
    if isinstance(default, int | float) and not isinstance(default, bool):
        return float  # 0 is often written for 0.0
    if isinstance(default, bool | str):
        return type(default)
    return Parameter.empty


def _why_not_a_setting(parameter: Parameter, section: type[ClassSection]) -> str | None:
    annotation = parameter.annotation
    if parameter.kind is Parameter.POSITIONAL_ONLY:
        return "is positional-only; remove the `/`, because settings are passed by name"
    if parameter.name in section.model_fields:
        return "has the same name as a setting of every class in this section; rename it"
    if annotation is Parameter.empty:
        return f"has no type annotation; annotate it, e.g. {_example(parameter)}"
    if isinstance(annotation, str | typing.ForwardRef):
        text = getattr(annotation, "__forward_arg__", annotation)
        return f"has the annotation {text}, which is not defined at run time; import the name"
    if not _is_plain(annotation):
        return f"has the type {_type_name(annotation)}, which is not a plain type such as int"
    return None


def _example(parameter: Parameter) -> str:
    default = parameter.default
    if isinstance(default, bool | int | float | str):
        return f"{parameter.name}: {type(default).__name__} = {default!r}"
    return f"{parameter.name}: int"


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation)


def _is_plain(annotation: Any) -> bool:
    """Whether YAML can express values of a type: pydantic has a JSON schema for it.

    Of the alternatives in a union, one must have values besides None.
    """
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for alternative in typing.get_args(annotation):
            if alternative is not type(None) and _is_plain(alternative):
                return True
        return False
    try:
        pydantic.TypeAdapter(annotation).json_schema()
    except Exception:  # pydantic's errors, and those of a type's own hooks
        return False
    return True


def _field(cls: type, parameter: Parameter) -> Any:
    """The pydantic field of a parameter, with its default and description."""
    options: dict[str, Any] = {"alias": parameter.name}
    options["description"] = describe_parameter(cls, parameter.name)
    if parameter.default is Parameter.empty:
        return pydantic.Field(**options)
    try:
        default = _plain_default(parameter)
    except (TypeError, ValueError):
        # YAML cannot express it, so it is not written into settings.
        return pydantic.Field(default_factory=_set_by_constructor, **options)
    return pydantic.Field(default, **options)


def _set_by_constructor() -> None:
    """Marks a default that only the constructor knows."""


def is_set_by_constructor(field: Any) -> bool:
    """Whether a setting that is not given gets its value from the constructor."""
    return field.default_factory is _set_by_constructor


def _plain_default(parameter: Parameter) -> Any:
    """The default as it is when it has been written to YAML and read again."""
    plain = pydantic.TypeAdapter(Any).dump_python(parameter.default, mode="json")
    json_text = json.dumps(plain, allow_nan=False)
    return pydantic.TypeAdapter(parameter.annotation).validate_json(json_text, strict=True)


def describe_parameter(cls: type, name: str) -> str | None:
    """The text on a parameter in the docstring of the class, or of the nearest base class."""
    owners = cls.__mro__ if isinstance(cls, type) else [cls]
    for owner in owners:
        for documented in (owner, vars(owner).get("__init__")):
            meanings = _documented_arguments(getattr(documented, "__doc__", None) or "")
            if name in meanings:
                return meanings[name]
    return None


def _documented_arguments(docstring: str) -> dict[str, str]:
    """The ``Args:`` section of a Google-style docstring: the text on each argument."""
    _, _, text = inspect.cleandoc(docstring).partition("\nArgs:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.strip() and not line.startswith(" "):
            break  # the next section
        entry = re.match(r" {4}(\w+)(?: \(.*?\))?:(.*)", line)
        if entry:
            name = entry[1]
            meanings[name] = entry[2].strip()
        elif name:
            meanings[name] = f"{meanings[name]} {line.strip()}".strip()
    return meanings


# Objects


def construct(section: ClassSection, base: type[T], **arguments: Any) -> T:
    """Constructs an object of the class that a section names.

    All arguments are passed by name. Settings that have their default value are not passed: a
    subclass may pass another value to the constructor of its base class.

    Args:
        section: names the class; its further keys are settings of that class.
        base: the class that it must derive from.
        arguments: further arguments; those that the constructor does not accept are left out.

    Raises:
        UserError: if the class is not found or its constructor fails.
    """
    cls = find_class(section.package, section.name, base)
    parameters = constructor_parameters(cls)
    accepts_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    passed = {name: value for name, value in arguments.items() if accepts_any or name in parameters}
    passed |= changed_arguments(cls, section)
    try:
        return cls(**passed)
    except USER_CODE_ERRORS as error:
        raise UserError(f"{section.name} cannot be built: {describe_error(error)}") from error


def changed_arguments(component: Any, section: ClassSection) -> dict[str, Any]:
    """The settings of a class or function that differ from the defaults of its parameters."""
    fields = class_settings(component, type(section), section.name).fields
    changed: dict[str, Any] = {}
    for name, value in section.arguments.items():
        field = fields.get(name)
        if field is None or field.is_required() or value != field.default:
            changed[name] = value
    return changed
