"""Rules for the payload's Python files that no linter checks.

A reader should understand each line at the first reading. The rules below find four forms that
usually need a second one. Branches, statements and complexity are checked by ruff.
"""

import ast
import re
from collections.abc import Iterator

import pytest
from code_lines import code_lines
from conftest import PAYLOAD

NOT_SOURCE = {".venv", "build"}
COUNTS = {"count", "depth", "len", "ndim", "numel", "size", "width", "world_size"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files() -> list[str]:
    """Returns the paths of the payload's Python files, tests included, relative to the payload."""
    paths = [path.relative_to(PAYLOAD) for path in PAYLOAD.rglob("*.py")]
    return sorted(path.as_posix() for path in paths if path.parts[0] not in NOT_SOURCE)


def is_repeatable(node: ast.expr) -> bool:
    """Whether an expression is a text or list literal, or a sum that contains one."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return is_repeatable(node.left) or is_repeatable(node.right)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    return isinstance(node, ast.JoinedStr | ast.List | ast.ListComp)


def is_count(node: ast.expr) -> bool:
    """Whether an expression is an integer constant, named in COUNTS, or arithmetic on these."""
    if isinstance(node, ast.Constant):
        return type(node.value) is int
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and is_count(node.operand)
    if isinstance(node, ast.BinOp):
        return is_count(node.left) and is_count(node.right)
    if isinstance(node, ast.Call):
        return is_count(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr in COUNTS
    return isinstance(node, ast.Name) and node.id in COUNTS


def repeated_literals(tree: ast.AST) -> Iterator[ast.AST]:
    """Finds a text or list literal that is multiplied by anything but a count.

    `"warning" * failed` is a condition that looks like arithmetic; write an `if`. The rule does not
    know types: a variable, attribute or function is a count if its name is in COUNTS, as in
    `[None] * world_size()`. Tuples are not checked.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            left_found = is_repeatable(node.left) and not is_count(node.right)
            right_found = is_repeatable(node.right) and not is_count(node.left)
            if left_found or right_found:
                yield node


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yields the nodes of a function, except for those of the functions that it defines."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function):
            waiting.extend(ast.iter_child_nodes(node))


def second_walruses(tree: ast.AST) -> Iterator[ast.AST]:
    """Finds functions with more than one walrus; each nested function counts on its own."""
    for function in ast.walk(tree):
        if isinstance(function, Function):
            walruses = [node for node in own_nodes(function) if isinstance(node, ast.NamedExpr)]
            if len(walruses) > 1:
                yield function


def are_related(targets: list[ast.expr], values: list[ast.expr]) -> bool:
    """Whether one statement may assign these values to these targets.

    It may if it reorders the same expressions (`a, b = b, a`), if all values are calls of the same
    function, or if all are subscripts of the same object.
    """
    if {ast.unparse(target) for target in targets} == {ast.unparse(value) for value in values}:
        return True
    functions = {ast.unparse(value.func) for value in values if isinstance(value, ast.Call)}
    objects = {ast.unparse(value.value) for value in values if isinstance(value, ast.Subscript)}
    if all(isinstance(value, ast.Call) for value in values):
        return len(functions) == 1
    if all(isinstance(value, ast.Subscript) for value in values):
        return len(objects) == 1
    return False


def unrelated_assignments(tree: ast.AST) -> Iterator[ast.AST]:
    """Finds assignments of unrelated values to several targets in one statement.

    Write one assignment for each. Both branches of a conditional expression are checked.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        values = [node.value]
        if isinstance(node.value, ast.IfExp):
            values = [node.value.body, node.value.orelse]
        tuples = [value for value in values if isinstance(value, ast.Tuple)]
        targets = [target for target in node.targets if isinstance(target, ast.Tuple)]
        if any(not are_related(target.elts, value.elts) for target in targets for value in tuples):
            yield node


def calls_by_name(tree: ast.AST) -> Iterator[ast.AST]:
    """Finds a method that is called through its name as text; call the method itself.

    That is a call of `getattr(x, "name")` with a literal name, a call of `attrgetter("name")(x)`,
    and any `methodcaller(...)`. `attrgetter("name")` alone, as a sort key, is allowed.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func).removeprefix("operator.") == "methodcaller":
            yield node
        if not isinstance(node.func, ast.Call):
            continue
        lookup = node.func
        name = ast.unparse(lookup.func).removeprefix("operator.")
        if name == "getattr" and len(lookup.args) > 1:
            if isinstance(lookup.args[1], ast.Constant | ast.JoinedStr):
                yield node
        elif isinstance(lookup.func, ast.Call):
            getter = ast.unparse(lookup.func.func)
            if getter.removeprefix("operator.") == "attrgetter":
                yield node


FORMS = {
    "a text or list that is multiplied by a condition": repeated_literals,
    "more than one walrus in a function": second_walruses,
    "an assignment of unrelated values": unrelated_assignments,
    "a method that is called through its name as text": calls_by_name,
}


def find_forms(text: str) -> list[str]:
    """Returns a line for each place in some source text that has one of the forms."""
    tree = ast.parse(text)
    found: list[str] = []
    for form, finder in FORMS.items():
        for node in finder(tree):
            (line, *_) = ast.unparse(node).splitlines()
            found.append(f"line {getattr(node, 'lineno', 0)}: {form}: {line}")
    return found


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("multiplied", "text = 'warning' * (errors > 0)"),
        ("multiplied", "text = f'{name} failed' * failed"),
        ("multiplied", "text = 'a' * bool(found)"),
        ("multiplied", "text = not found * ', none'"),
        ("multiplied", "text = ('one ' + other) * (not done)"),
        ("multiplied", "options = [*always, *['--all'] * self.whole]"),
        ("multiplied", "options = [name for name in names] * (1 + is_main)"),
        ("multiplied", "text = ', ...' * (len(missing) > 3)"),
        ("walrus", "def f():\n    if (a := g()) and (b := h()):\n        return a, b"),
        ("walrus", "def f():\n    while a := g():\n        return [b for c in a if (b := c)]"),
        ("unrelated", "a, b = 1, 2"),
        ("unrelated", "self.best, missed = value, 0"),
        ("unrelated", "a, b = f(x), g(x)"),
        ("unrelated", "a, b = x[0], y[0]"),
        ("unrelated", "a, b = f(x), x[0]"),
        ("unrelated", "self.best, missed = (value, 0) if better else (self.best, missed + 1)"),
        ("through its name", "getattr(writer, 'add_scalar')(tag, value)"),
        ("through its name", "getattr(tensor, 'to_local', default)()"),
        ("through its name", "getattr(writer, f'add_{kind}')(tag, value)"),
        ("through its name", "attrgetter('file_writer.add_summary')(target)(*arguments)"),
        ("through its name", "list(map(operator.methodcaller('strip'), lines))"),
    ],
)
def test_each_form_is_found(form: str, text: str) -> None:
    (found,) = find_forms(text)
    assert form in found


@pytest.mark.parametrize(
    "text",
    [
        "line = '-' * 80",
        "line = '-' * (len(title) + 2 * len(margin) - 1)",
        "cells = 3 * [None]",
        "gathered = [None] * world_size()",
        "shape = [1] * (images.ndim - 2)",
        "area = width * height",
        "shape = (1,) * (images.ndim - 1)",
        "def f():\n    if a := g():\n        return a",
        "def f():\n    def h():\n        if a := g():\n            return a\n    if b := h():\n"
        "        return b",
        "a, b = b, a",
        "x[i], x[j], x[k] = x[k], x[i], x[j]",
        "first, second = load(one), load(other)",
        "mean, std = statistics[0], statistics[1]",
        "height, width = image.shape",
        "a = 1, 2",
        "getattr(torch.nn, name)(**arguments)",
        "getattr(error, 'exit_code', 2)",
        "rows.sort(key=attrgetter('step'))",
    ],
)
def test_other_code_is_not_found(text: str) -> None:
    assert find_forms(text) == []


@pytest.mark.parametrize("file", python_files())
def test_the_payload_has_none_of_the_forms(file: str) -> None:
    found = find_forms((PAYLOAD / file).read_text(encoding="utf-8"))
    assert not found, "\n".join([file, *found])


def test_python_files_contain_no_jinja() -> None:
    for file in python_files():
        text = (PAYLOAD / file).read_text(encoding="utf-8")
        assert not re.search(r"\{\{ *cookiecutter|\{%", text), file


def test_blank_lines_comments_and_docstrings_are_not_counted_as_code() -> None:
    text = '"""Doc."""\n\n# comment\nx = (\n    1,\n)\n\n'
    text += 'def f():\n    """Doc.\n\n    More.\n    """\n    return x\n'
    assert code_lines(text) == {4, 5, 6, 8, 13}
