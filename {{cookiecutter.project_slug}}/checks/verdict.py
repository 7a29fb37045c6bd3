"""The result of a check: figures, and what is wrong, with advice."""

from dataclasses import dataclass, field
from typing import Any

OK = "ok"
WARNING = "warning"
FAILED = "FAILED"
SKIPPED = "skipped"
MAX_LISTED_NAMES = 3


class Skipped(Exception):  # noqa: N818  it is no error
    """Ends a check that makes no sense for a project; the message is the reason."""


@dataclass
class Verdict:
    """What a check has found.

    Attributes:
        name: the name of the check.
        figures: what was measured, by name: numbers and texts.
        failures: each says what is wrong, and what to do.
        warnings: as `failures`, but it may be intended.
        reason: why the check was skipped; empty if it was not.
    """

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def status(self) -> str:
        """The verdict in one word."""
        if self.failures:
            return FAILED
        if self.reason:
            return SKIPPED
        if self.warnings:
            return WARNING
        return OK

    def describe(self) -> str:
        """One line: the name, the verdict, what is wrong, and the figures."""
        parts = [*self.failures, *self.warnings]
        if self.reason:
            parts.append(self.reason)
        for name, value in self.figures.items():
            parts.append(f"{name} {_as_text(value)}")
        text = " ".join("; ".join(parts).split())
        return f"{self.name:<12} {self.status:<8} {text}"

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.name,
            "verdict": self.status,
            "failures": self.failures,
            "warnings": self.warnings,
            "reason": self.reason,
            "figures": self.figures,
        }


def list_some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    text = ", ".join(names[:MAX_LISTED_NAMES])
    if len(names) > MAX_LISTED_NAMES:
        text += f" and {len(names) - MAX_LISTED_NAMES} more"
    return text


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
