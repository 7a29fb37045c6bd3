"""Finds the classes and functions that settings name, by importing their files and packages."""

import difflib
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from config.schema import ClassSection
from utils.errors import UserError, describe_error
from utils.imports import fast_imports

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
# Names in settings may come from strangers. Without dots, slashes and leading underscores, a
# module's name can only mean a file in the folder of the section.
MODULE_NAME = re.compile(r"[^\W\d_]\w*")
CLASS_NAME = re.compile(r"[^\W\d]\w*")
MAX_SUGGESTIONS = 2
MIN_SIMILARITY_IN_FILE = 0.4  # of a class in the file that a wrong name names


@dataclass(frozen=True)
class ClassListing:
    """The classes in a folder.

    Attributes:
        classes: the classes, by the names that settings use.
        failures: the files that cannot be imported, with the reasons.
    """

    classes: dict[str, type]
    failures: dict[str, str]


def find_component(section: type[ClassSection], name: str) -> Any:
    """Imports the class that a setting names, or the function where a section allows functions.

    Raises:
        UserError: if there is none, its file or library cannot be imported, or it is of another
            kind.
    """
    modules, names = _split_name(section.package, name)
    if section.functions and len(names) == 1:
        functions = list_functions(section)
        if modules:
            functions = _functions_of_file(section, modules, names[0])
        if names[0] in functions:
            return functions[names[0]]
    if not modules:
        library_class = _find_in_libraries(section, name)
        if library_class is not None:
            return library_class
        if section.functions or section.libraries:
            available = list_names(section)
            suggestions = _suggestions(name, available, _unlisted_names(section))
            raise UserError(f"there is no such name{suggestions}")
    return find_class(section.package, name, section.project_base or section.base)


def _functions_of_file(
    section: type[ClassSection], modules: list[str], name: str
) -> dict[str, Any]:
    """The functions of a file in the folder of a section.

    Raises:
        UserError: if the file contains nothing of the given name.
    """
    module = _import_from_project(section.package, modules)
    functions = _public_functions(module)
    if not hasattr(module, name):
        available = [".".join([*modules, function]) for function in functions]
        available += list_names(section)
        full_name = ".".join([*modules, name])
        suggestions = _suggestions(full_name, available, _unlisted_names(section))
        path = _path(section.package, modules)
        raise UserError(f"{path} has no function or class {name}{suggestions}")
    return functions


def list_names(section: type[ClassSection]) -> list[str]:
    """The names of all functions and classes that a section can name, except for other libraries.

    Files that cannot be imported are left out.
    """
    names = [*list_functions(section), *list_classes(section.package, section.base).classes]
    if section.libraries:
        names += list_library_classes(section.libraries[0], section.base)
    return names


def list_functions(section: type[ClassSection]) -> dict[str, Any]:
    """The functions that a section can name without a prefix, by name."""
    if not section.functions:
        return {}
    return _public_functions(_import_from_project(section.package, [section.functions]))


def is_project_class(cls: type) -> bool:
    """Whether a class or function is defined in a file of the project."""
    top_package = cls.__module__.partition(".")[0]
    return (ROOT / top_package).is_dir() or (ROOT / f"{top_package}.py").is_file()


def list_library_classes(library: str, base: type[T] | str) -> dict[str, type[T]]:
    """The public classes of an installed package that derive from a base class, by name.

    Raises:
        UserError: if the package cannot be imported.
    """
    try:
        with fast_imports():
            module = importlib.import_module(library)
    except ImportError as error:
        package = library.partition(".")[0]
        raise UserError(f"{library} cannot be imported ({error}); pip install {package}") from error
    base_class: type[T] = _resolve(base)
    classes: dict[str, type[T]] = {}
    for name, value in vars(module).items():
        is_class = isinstance(value, type) and issubclass(value, base_class)
        if is_class and value is not base_class and not name.startswith("_"):
            classes[name] = value
    return classes


def find_class(package: str, name: str, base: type[T] | str) -> type[T]:
    """Imports the class of the project that a setting names.

    Args:
        package: the folder that contains the class, such as data_loader, model or trainer.
        name: FILE.Class or FOLDER.FILE.Class; FOLDER.Class if ``FOLDER/__init__.py`` imports it.
        base: the class that it must derive from, or the dotted path of that class.

    Raises:
        UserError: if there is no such class, its file cannot be imported, it does not derive from
            `base`, or it is abstract.
    """
    modules, class_names = _split_name(package, name)
    path = _path(package, modules)
    if not class_names:
        suggestions = _suggestions(name, [*list_classes(package, base).classes])
        raise UserError(f"no such class{suggestions}")
    module = _import_from_project(package, modules)
    found = getattr(module, class_names[0], None)
    for inner_name in class_names[1:]:
        if isinstance(found, type):  # nested classes, but no modules that the file imports
            found = getattr(found, inner_name, None)
    base_class: type[T] = _resolve(base)
    if not isinstance(found, type):
        problem = f"{path} has no class {'.'.join(class_names)}"
        if found is not None:
            kind = _kind_of(found)
            problem = f"{path}: {class_names[0]} is {kind}, not a subclass of {base_class.__name__}"
        suggestions = _suggestions(name, [*list_classes(package, base).classes])
        raise UserError(f"{problem}{suggestions}")
    if not issubclass(found, base_class):
        raise UserError(f"{path}: {found.__name__} does not derive from {base_class.__name__}")
    if inspect.isabstract(found):
        methods = ", ".join(sorted(vars(found)["__abstractmethods__"]))
        raise UserError(f"{path}: {found.__name__} is abstract; define {methods}")
    return found


def list_classes(package: str, base: type | str) -> ClassListing:
    """Imports all files of a folder and lists the classes that they define."""
    listing = ClassListing(classes={}, failures={})
    try:
        base_class: type = _resolve(base)
    except UserError as error:
        listing.failures[str(base)] = str(error)
        return listing
    for prefix, module in _import_files(package, listing.failures):
        for name, value in vars(module).items():
            defined_here = isinstance(value, type) and value.__module__ == module.__name__
            if defined_here and issubclass(value, base_class) and not inspect.isabstract(value):
                listing.classes[f"{prefix}{name}"] = value
    return listing


def _import_files(package: str, failures: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Imports all files of a folder: the prefix of the names in each, such as ``FILE.``, and it.

    Args:
        package: the folder.
        failures: gets the files that cannot be imported, with the reasons.
    """
    folder = ROOT / package
    for file in sorted(folder.rglob("*.py")):
        modules = list(file.relative_to(folder).with_suffix("").parts)
        if modules[-1] == "__init__":
            modules.pop()
        if not all(MODULE_NAME.fullmatch(name) for name in modules):
            continue
        try:
            module = _import_from_project(package, modules)
        except UserError as error:
            path = file.relative_to(ROOT).as_posix()
            failures[path] = str(error)
            continue
        yield "".join(f"{name}." for name in modules), module


def _unlisted_names(section: type[ClassSection]) -> list[str]:
    """What a section can name as ``FILE.NAME`` and `list_names` leaves out.

    Most functions and networks of a project are no schedules or losses: they are only suggested.
    """
    names: list[str] = []
    if section.functions:
        for prefix, module in _import_files(section.package, {}):
            if prefix != f"{section.functions}.":
                names += [f"{prefix}{name}" for name in _public_functions(module)]
    if section.project_base:
        names += list_classes(section.package, section.project_base).classes
    return names


def _public_functions(module: Any) -> dict[str, Any]:
    """The functions that a module defines, in their order."""
    functions = {}
    for name, value in vars(module).items():
        defined_here = inspect.isfunction(value) and value.__module__ == module.__name__
        if defined_here and not name.startswith("_"):
            functions[name] = value
    return functions


def _kind_of(value: Any) -> str:
    """What something is that is no class, for messages."""
    if inspect.isroutine(value):
        return "a function"
    if inspect.ismodule(value):
        return "a module"
    return f"an object of the class {type(value).__name__}"


def _find_in_libraries(section: type[ClassSection], name: str) -> Any:
    """The class of a library; None if there is no such class."""
    for library in section.libraries:
        class_name = name.removeprefix(f"{library}.")
        if class_name == name and library != section.libraries[0]:
            continue
        classes: dict[str, type] = list_library_classes(library, section.base)
        if class_name in classes:
            return classes[class_name]
    return None


def _split_name(package: str, name: str) -> tuple[list[str], list[str]]:
    """Splits FOLDER.FILE.Class into the names of modules that exist and those of classes."""
    modules: list[str] = []
    class_names = name.split(".")
    folder = ROOT / package
    while class_names and MODULE_NAME.fullmatch(class_names[0]):
        first = class_names[0]
        is_file = (folder / f"{first}.py").is_file()
        is_folder = (folder / first).is_dir()
        if is_file and not (folder / first / "__init__.py").is_file():
            modules.append(class_names.pop(0))
            break
        if not is_folder:
            break
        modules.append(class_names.pop(0))
        folder /= first
    if not all(CLASS_NAME.fullmatch(part) for part in class_names):
        return modules, []
    return modules, class_names


def _path(package: str, modules: list[str]) -> str:
    """The path of a module in the project, for messages."""
    path = Path(package, *modules)
    if (ROOT / path).is_dir():
        return f"{path.as_posix()}/"
    return path.with_suffix(".py").as_posix()


def _resolve(base: type[T] | str) -> type[T]:
    if not isinstance(base, str):
        return base
    module_name, _, name = base.rpartition(".")
    path = Path(*module_name.split(".")).with_suffix(".py")
    found: type[T] = getattr(_import(module_name, path.as_posix()), name)
    return found


def _import_from_project(package: str, modules: list[str]) -> Any:
    return _import(".".join([package, *modules]), _path(package, modules))


def _import(name: str, path: str) -> Any:
    """Imports a module.

    Raises:
        UserError: if the file raises an error, whatever it is: it may be half-written.
    """
    if name in sys.modules:
        return sys.modules[name]
    message = f"{path} cannot be imported"
    try:
        with fast_imports():
            return importlib.import_module(name)
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}"
        raise UserError(f"{message}: SyntaxError: {error.msg} ({place})") from error
    except Exception as error:
        raise UserError(f"{message}: {describe_error(error)}") from error
    except SystemExit as error:
        raise UserError(f"{message}: it ends the process by SystemExit") from error


def _suggestions(name: str, available: Sequence[str], unlisted: Sequence[str] = ()) -> str:
    """The end of an error message: what may be meant, and all names.

    Args:
        name: the wrong name.
        available: the names that the message lists.
        unlisted: further names that may be meant.
    """
    listing = textwrap.shorten(", ".join(available), 250, placeholder=" ...")
    candidates = list(dict.fromkeys([*available, *unlisted]))  # each once
    similar = _similar_names(name, candidates)
    if similar:
        return f"; did you mean {' or '.join(similar[:MAX_SUGGESTIONS])}? Available: {listing}"
    return f"; available: {listing or 'none'}"


def _similar_names(name: str, available: Sequence[str]) -> list[str]:
    """The names that may be meant by a wrong one, the most similar first.

    The same class in other files counts most. A name without a dot may also be that of a file.
    """
    file, _, class_name = name.rpartition(".")
    same_class = [other for other in available if _last_part(other) == class_name]
    if same_class:
        return _sorted_by_similarity(name, same_class)
    if not file:
        in_file = [other for other in available if other.startswith(f"{name}.")]
        if in_file:
            return in_file
    by_class: dict[str, list[str]] = {}
    classes_in_file: dict[str, str] = {}
    for other in available:
        other_class = _last_part(other).lower()
        by_class.setdefault(other_class, []).append(other)
        if file and other.rpartition(".")[0] == file:
            classes_in_file[other_class] = other
    lower_name = class_name.lower()
    similar = difflib.get_close_matches(
        lower_name, classes_in_file, n=1, cutoff=MIN_SIMILARITY_IN_FILE
    )
    if similar:
        return [classes_in_file[similar[0]]]
    similar = difflib.get_close_matches(lower_name, by_class, n=1)
    if similar:
        return _sorted_by_similarity(name, by_class[similar[0]])
    return []


def _sorted_by_similarity(name: str, others: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, others, n=len(others), cutoff=0)


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
