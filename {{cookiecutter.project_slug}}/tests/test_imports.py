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
import gc
from utils.imports import fast_imports
with fast_imports():
    import decimal
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""
GARBAGE_AT_EXIT = """
import os, sys
class Node:
    def __init__(self):
        self.itself = self
    def __del__(self, write=os.write):
        write(1, b"collected")
node = Node()
"""


class Node:
    """An object that refers to itself, so that only the garbage collector can delete it."""

    def __init__(self) -> None:
        self.itself = self


def run(code: str) -> list[str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_imported_objects_are_not_searched_for_garbage() -> None:
    assert run(IMPORTING) == ["False", "True", "True"]


def test_the_collection_at_the_exit_is_left_out() -> None:
    assert run(GARBAGE_AT_EXIT) == ["collected"]
    assert run(IMPORTING + GARBAGE_AT_EXIT) == ["False", "True", "True"]


def test_libraries_that_report_leaks_get_their_collection_at_the_exit() -> None:
    import_one = "import sys; sys.modules['triton'] = sys"
    output = run(IMPORTING + import_one + GARBAGE_AT_EXIT)
    assert output == ["False", "True", "True", "collected"]


def test_garbage_is_found_after_a_block_that_imports_nothing() -> None:
    node = Node()
    reference = weakref.ref(node)
    del node
    with fast_imports():
        import json  # noqa: F401  which has been imported already
    gc.collect()
    assert reference() is None
