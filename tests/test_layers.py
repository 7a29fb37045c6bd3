"""The payload's packages form layers: imports go down, and no modules import each other in a cycle.

Imports inside functions and under `TYPE_CHECKING` count as well: a reader follows them, too.
"""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import PAYLOAD

LAYERS = (
    {"utils", "config"},
    {"storage", "logger", "metrics", "optim"},
    {"base"},
    {"data_loader", "model", "trainer"},
    {"experiments"},
    {
        "builders",
        "profiling",
        "run_description",
        "run_length",
        "run_record",
        "sanity_check",
        "schedule_preview",
    },
    {"checks", "evaluation"},
    {"train", "evaluate", "predict", "export", "preview", "check", "compare", "sweep"},
)
NOT_SOURCE = {"tests", ".venv", "build"}
Graph = dict[str, set[str]]


def payload_sources() -> dict[str, str]:
    """Returns the source text of the payload's modules by dotted name, without its tests."""
    sources: dict[str, str] = {}
    for file in PAYLOAD.rglob("*.py"):
        path = file.relative_to(PAYLOAD)
        if path.parts[0] not in NOT_SOURCE:
            sources[module_name(path)] = file.read_text(encoding="utf-8")
    return sources


def module_name(path: Path) -> str:
    """Returns the dotted name of a file: `base/__init__.py` is `base`."""
    parts = path.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def imported_names(text: str, module: str) -> set[str]:
    """Returns the dotted names that a module imports, anywhere in its text.

    `from a.b import c` gives both `a.b` and `a.b.c`, as `c` may be a module. A relative import is
    resolved as if `module` were not a package itself, since the payload's `__init__.py` are empty.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            names.add(origin)
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return names


def import_graph(sources: Mapping[str, str]) -> Graph:
    """Returns which of the modules each module imports; packages from elsewhere are left out."""
    graph: Graph = {}
    for module, text in sources.items():
        graph[module] = imported_names(text, module) & sources.keys() - {module}
    return graph


def find_cycle(graph: Graph) -> list[str]:
    """Returns the modules of one cycle, the first of them again at the end; empty if none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def find_upward_imports(graph: Graph) -> list[str]:
    """Returns a line for each import of a higher layer, and for each module without a layer."""
    heights = {package: height for height, layer in enumerate(LAYERS) for package in layer}
    problems: list[str] = []
    for module, imported in sorted(graph.items()):
        own_height = heights.get(module.split(".")[0])
        if own_height is None:
            problems.append(f"{module} belongs to no layer")
            continue
        for other in sorted(imported):
            if heights.get(other.split(".")[0], 0) > own_height:
                problems.append(f"{module} imports {other} from a higher layer")
    return problems


def test_imports_anywhere_in_a_module_are_found() -> None:
    text = (
        "import torch\nimport utils.device as device\nfrom base import base_model\n"
        "from . import losses\nfrom .networks import MLP\n"
        "if TYPE_CHECKING:\n    from trainer.classifier import Classifier\n"
        "def late():\n    from logger.run_log import RunLog\n"
    )
    modules = (
        "base", "base.base_model", "logger.run_log", "model.losses", "model.my_model",
        "model.networks", "trainer.classifier", "utils.device", "utils.files",
    )  # fmt: skip
    sources = {**dict.fromkeys(modules, ""), "model.my_model": text}
    expected = {*modules} - {"model.my_model", "utils.files"}
    assert import_graph(sources)["model.my_model"] == expected


@pytest.mark.parametrize(
    "texts",
    [
        {"base.a": "import base.b", "base.b": "from base.a import A"},
        {"base.a": "import base.b", "base.b": "def f():\n    import base.a"},
        {"a": "if TYPE_CHECKING:\n    import b", "b": "import c", "c": "from a import A"},
    ],
)
def test_cycles_are_found(texts: dict[str, str]) -> None:
    cycle = find_cycle(import_graph(texts))
    assert {*cycle} == {*texts}
    assert cycle[0] == cycle[-1]


def test_modules_that_import_the_same_one_are_not_a_cycle() -> None:
    graph = import_graph(
        {"a": "import b, c", "b": "import d", "c": "import d, b", "d": "import a_"}
    )
    assert find_cycle(graph) == []


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("train", "builders", True),
        ("builders", "trainer.classifier", True),
        ("trainer.finetuner", "model.backbone", True),
        ("base.base_trainer", "storage.checkpointer", True),
        ("metrics.regression", "config.schema", True),
        ("utils.device", "config.schema", True),
        ("utils.device", "storage.run_folder", False),
        ("storage.checkpointer", "base.base_trainer", False),
        ("base.batch_loader", "data_loader.transforms", False),
        ("model.losses", "builders", False),
        ("profiling", "train", False),
    ],
)
def test_only_imports_of_higher_layers_are_found(module: str, imported: str, allowed: bool) -> None:
    problems = find_upward_imports({module: {imported}, imported: set()})
    expected = [] if allowed else [f"{module} imports {imported} from a higher layer"]
    assert problems == expected


def test_modules_without_a_layer_are_found() -> None:
    assert find_upward_imports({"helpers.misc": set()}) == ["helpers.misc belongs to no layer"]


def test_the_payload_has_no_import_cycles() -> None:
    cycle = find_cycle(import_graph(payload_sources()))
    assert not cycle, " imports ".join(reversed(cycle))


def test_the_payload_imports_only_from_lower_layers() -> None:
    problems = find_upward_imports(import_graph(payload_sources()))
    assert not problems, "\n".join(problems)
