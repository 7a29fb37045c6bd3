"""The hooks' functions: which answers are rejected, and how valid ones are escaped."""

import importlib.util
import tomllib
from types import ModuleType

import pytest
from conftest import TEMPLATE
from markdown_it import MarkdownIt


def load_hook(name: str) -> ModuleType:
    """Imports a file of hooks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, TEMPLATE / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOK = load_hook("answers")
TEXTS = [
    'He said "hi"',
    "it's",
    "back\\slash \\n \\",
    "{{ 7 * 7 }} {% raw %} {# no #}",
    "100 % # not a comment",
    "<b>bold</b> & <script>",
    "*stars* _lines_ __init__ snake_case ~~no~~",
    "[link](http://example.com) ![image](x) `code` | cell |",
    "🚀 emoji 👩🏽‍🔬",
    "한국어 프로젝트",
    "مشروع عربي",
    "$HOME $(rm -rf) `id`",
    "# heading",
    "- item",
    "1. item",
    "+ item",
    "> quote",
    "=====",
    "---",
    "&amp; &#42;",
    "name: value, [a, b]",
    "'''\"\"\"",
]


@pytest.mark.parametrize(
    "slug",
    [
        "", "1st", "Upper", "with space", "dot.ted", "a/b", "../up", "-begin", "end-", "_begin",
        "a" * 65, "émile", "class", "json", "base", "model", "torch", "tests", "data-loader",
    ],
)  # fmt: skip
def test_an_invalid_slug_is_rejected_with_its_value(slug: str) -> None:
    problem = HOOK.find_problem({"project_slug": slug})
    assert problem is not None
    assert repr(slug) in problem
    assert "\n" not in problem


@pytest.mark.parametrize("slug", ["a", "my-project", "net_2", "a" * 64, "models", "torch-net"])
def test_a_valid_slug_is_accepted(slug: str) -> None:
    assert HOOK.find_problem({"project_slug": slug}) is None


@pytest.mark.parametrize("name", ["project_name", "description", "author_name", "author_email"])
@pytest.mark.parametrize("letter", ["\n", "\t", "\x00", "\x1b", "\x7f", "\x85", "\u2028"])
def test_control_characters_are_rejected(name: str, letter: str) -> None:
    assert HOOK.find_problem({name: f"a{letter}b@c"}) is not None


@pytest.mark.parametrize("email", ["", "name", "@", "a@", "@b", "a b@c", "a@b <x@y>", "a@@b"])
def test_an_invalid_email_address_is_rejected(email: str) -> None:
    assert HOOK.find_problem({"author_email": email}) is not None


def test_answers_of_cookiecutter_and_choices_are_not_checked_as_text() -> None:
    assert HOOK.find_problem({"_template": "\n", "license": "MIT"}) is None


@pytest.mark.parametrize("name", ["", "🚀", "3D net", "Torch", "Model", "한국어", "x" * 200, "--"])
def test_every_project_name_gives_a_valid_slug(name: str) -> None:
    assert HOOK.find_problem({"project_slug": HOOK.make_slug(name)}) is None


@pytest.mark.parametrize("text", TEXTS)
def test_toml_returns_quoted_text_unchanged(text: str) -> None:
    assert tomllib.loads(f'key = "{HOOK.quote(text)}"')["key"] == text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("begin", ["# ", ""])
def test_markdown_shows_escaped_text_unchanged(begin: str, text: str) -> None:
    (_, inline, _) = MarkdownIt().parse(begin + HOOK.escape_markdown(text))
    assert inline.children is not None
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == text
