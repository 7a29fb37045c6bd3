"""Locks that several processes acquire and test at the same time; here, threads stand for them."""
# ruff: noqa: D103  the names of the tests say what they test

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from utils.locks import acquire_lock, is_locked

ATTEMPTS = 100


@contextmanager
def repeating(action: Callable[[], object]) -> Iterator[None]:
    """Within this context, another thread does something again and again."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.is_set():
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_lock_is_found_until_it_is_released(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    assert not is_locked(file)
    assert not file.exists()
    lock = acquire_lock(file)
    assert is_locked(file)
    with pytest.raises(filelock.Timeout):
        acquire_lock(file)
    lock.release()
    assert not is_locked(file)


def test_whoever_tests_a_lock_does_not_keep_others_from_acquiring_it(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    file.touch()
    with repeating(lambda: is_locked(file)):
        for _ in range(ATTEMPTS):
            acquire_lock(file).release()


def test_whoever_tests_a_lock_is_not_taken_for_its_holder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows has no shared locks of this kind")
    file = tmp_path / ".lock"
    file.touch()
    with file.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)  # as `is_locked` of another process does
        assert not is_locked(file)
