"""How torch is imported, which takes most of the time of a short command."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Within it, modules are imported in two thirds of the time, and Ctrl-C ends the process.

    Raised in the midst of an import, a KeyboardInterrupt may get lost. The time is saved by not
    searching for garbage among objects that stay; the first time, they are excepted for good.
    """
    usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        gc.enable()
        signal.signal(signal.SIGINT, usual)
