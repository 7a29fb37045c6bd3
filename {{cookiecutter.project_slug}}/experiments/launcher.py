"""Imports torch, and then waits for a run of a sweep: the process of a SpareProcess.

Its standard input gets one line of JSON:

- ``command``: ``train.py`` and its arguments, or the module of torchrun and its arguments.
- ``output``: the file for what the run prints.

If the input ends without it, the sweep has ended, and so does this process.
"""

import json
import os
import runpy
import sys
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
STDIN = 0
STDOUT = 1
STDERR = 2


def main() -> None:
    """Imports torch, waits, and becomes the process of the run."""
    # The process starts with `python -P`, as the modules of experiments/ would hide Python's own.
    sys.path.insert(0, str(PROJECT))
    from utils.imports import fast_imports

    # Nobody sees an error here, of whatever kind: train.py imports torch again and reports it.
    with fast_imports(), suppress(Exception):
        import torch  # noqa: F401

    line = sys.stdin.readline()
    if not line:
        return
    request = json.loads(line)
    redirect_streams(request["output"])
    sys.argv = request["command"]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def redirect_streams(output: str) -> None:
    """Appends what this process prints to a file, and gives it an empty input."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (STDOUT, STDERR):
        os.dup2(file, stream)
    os.close(file)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, STDIN)
    os.close(empty)


if __name__ == "__main__":
    main()
