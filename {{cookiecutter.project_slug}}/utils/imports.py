"""Importing torch, which takes most of the time of a short command."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fast_imports() -> Iterator[None]:
    """Within this context, modules are imported without garbage collection.

    An import creates many objects that stay. Searching them for garbage again and again takes a
    third of the time until the first step (benchmarks/start.py).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
