"""Importing without garbage collection."""
# ruff: noqa: D103  the names of the tests state what they test

import gc
import subprocess
import sys
import weakref
from pathlib import Path

from utils.imports import fast_imports

ROOT = Path(__file__).resolve().parent.parent
IMPORTING = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count()))  # called after what is registered later
from utils.imports import fast_imports
with fast_imports():
    import decimal
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


class Node:
    """An object that refers to itself, so that only the garbage collector can delete it."""

    def __init__(self) -> None:
        self.itself = self


def test_imported_objects_are_not_searched_for_garbage_until_the_exit() -> None:
    command = [sys.executable, "-c", IMPORTING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "0"]
    assert done.stderr == ""


def test_garbage_is_found_after_a_block_that_imports_nothing() -> None:
    node = Node()
    reference = weakref.ref(node)
    del node
    with fast_imports():
        import json  # noqa: F401  which has been imported already
    gc.collect()
    assert reference() is None
