"""Example data for text_csv.py: messages of the guests of a hotel, made in code."""

from collections.abc import Sequence
from pathlib import Path

import torch

from data_loader.tables import write_rows
from utils.randomness import make_generator

MESSAGES = 3000
CLASSES = ["complaint", "praise", "question"]
THINGS = ["room", "breakfast", "view", "bed", "shower", "lobby", "staff", "price"]
GOOD = ["wonderful", "clean", "kind", "lovely", "perfect", "quiet"]
BAD = ["dirty", "noisy", "rude", "broken", "awful", "cold"]
QUESTIONS = [
    "When does the {a} open?",
    "How much is the {a}?",
    "Is the {a} near the {b}?",
    "Could you tell me about the {a} and the {b}?",
]
STATEMENTS = [
    "The {a} was {x}, and the {b} was {y}.",
    "A {x} {a}!",
    "Not {z} at all: the {a} was {x}.",
    "I found the {a} {x}, but never {z}.",
    "The {a} is {x}; nothing about it is {z}.",
]


def make_messages(file: Path) -> None:
    """Writes messages and their classes; which is praise also depends on the order of words."""
    rng = make_generator(4)
    rows: list[Sequence[str]] = [("text", "class")]
    for _ in range(MESSAGES):
        numbers = torch.randint(840, (7,), generator=rng).tolist()
        rows.append(_make_message(numbers))
    write_rows(file, rows)


def _make_message(numbers: Sequence[int]) -> tuple[str, str]:
    """Makes a message and its class from seven random numbers."""
    kind, pattern, a, b, x, y, z = numbers
    label = CLASSES[kind % 3]
    patterns = QUESTIONS if label == "question" else STATEMENTS
    if label == "praise":
        meant = GOOD
        denied = BAD
    else:
        meant = BAD
        denied = GOOD
    text = patterns[pattern % len(patterns)].format(
        a=THINGS[a % 8], b=THINGS[b % 8], x=meant[x % 6], y=meant[y % 6], z=denied[z % 6]
    )
    return text, label


EXAMPLES = {"text/messages.csv": make_messages}
