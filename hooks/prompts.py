"""Asks three questions; the answers to the others follow from the preset.

Cookiecutter asks all questions of a template, and has no way to leave out some of them. Therefore,
its function for a question is replaced while it asks those of this template. If a later version has
no such function, it asks all questions, and the default answers are those of the preset.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cookiecutter import prompt
from jinja2 import Environment
from jinja2.ext import Extension

QUESTIONS = json.loads((Path(__file__).parent.parent / "cookiecutter.json").read_text("utf-8"))
PROMPTS = QUESTIONS["__prompts__"]
ALWAYS_ASKED = ("project_name", "example", "preset")


class Questions:
    """Takes the place of ``cookiecutter.prompt.read_user_variable``, which asks one question."""

    def __init__(self) -> None:
        # An error in an earlier answer, in the same process, may have left its predecessor there.
        current: Any = getattr(prompt, "read_user_variable", None)
        self.read_text = getattr(current, "read_text", current)
        self.preset: str | None = None  # the answer, once it is known

    def start(self, _: Any) -> str:
        """Asks the following questions of cookiecutter."""
        prompt.read_user_variable = self
        return ""

    def end(self, _: Any) -> str:
        """Lets cookiecutter ask the following questions itself."""
        prompt.read_user_variable = self.read_text
        return ""

    def __call__(self, name: str, default: Any, *texts: Any) -> Any:
        """Returns the typed answer, or the default one if the preset answers the question.

        Args:
            name: of the question
            default: its answer if nothing is typed
            texts: what cookiecutter prints with a question; depends on its version
        """
        if self.preset not in (None, "custom"):
            return default
        if name in ALWAYS_ASKED and len(texts) > 1:
            number = ALWAYS_ASKED.index(name) + 1
            texts = (texts[0], f"  [dim][{number}/{len(ALWAYS_ASKED)}][/] ", *texts[2:])
        if isinstance(PROMPTS[name], dict):
            choices = [choice for choice in PROMPTS[name] if choice != "__prompt__"]
            choices.sort(key=lambda choice: choice != default)  # the first one is the default
            answer = prompt.read_user_choice(name, choices, *texts)
        else:
            answer = self.read_text(name, default, *texts)
        if name == "preset":
            self.preset = answer
        return answer


class Prompts(Extension):
    """Provides the filters at the start and at the end of the questions in cookiecutter.json."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        questions = Questions()
        environment.filters.update(start_questions=questions.start, end_questions=questions.end)
        # cruft renders two versions of the template in one process; each must load its own hooks.
        sys.modules.pop(__name__, None)
