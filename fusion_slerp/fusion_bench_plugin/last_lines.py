"""The last lines of a FusionBench run: after an evaluation it prints its whole report, which is long."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_waiting: list[Callable[[], object]] = []


def show_last(show: Callable[[], object]) -> None:
    """Has something shown at the end of the run: when the process ends, or when the next run of a sweep
    begins.
    """
    if not _waiting:
        atexit.register(show_waiting)
    _waiting.append(show)


@contextmanager
def discarded() -> Iterator[None]:
    """Drops what is to be shown last by the code inside."""
    before = len(_waiting)
    try:
        yield
    finally:
        del _waiting[before:]


def show_waiting() -> None:
    """Shows what waits, in its order."""
    atexit.unregister(show_waiting)
    waiting = _waiting.copy()
    _waiting.clear()
    for show in waiting:
        show()
