"""Turns signals that end a process into exceptions, so that work in progress is cleaned up first.

Nothing is changed at import, nor in a program that has its own handlers.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

HEEDED = ("SIGTERM", "SIGHUP")
"""The signals. Windows has no SIGHUP; Ctrl-C already raises an exception."""


class Terminated(BaseException):
    """The process received a signal to end.

    Attributes:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def signals_raise() -> Iterator[Collection[int]]:
    """Raises `Terminated` when a signal would end the process; signals that have a handler keep it.

    It does so once, so that a second signal does not disturb the cleanup after the first. Yields the numbers
    of the signals that it handles: none outside the main thread, where Python allows no handlers.
    """
    known = (getattr(signal, name, None) for name in HEEDED)
    heeded = [number for number in known if number and signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        heeded = []

    def stop(number: int, frame: object) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(number)

    for number in heeded:
        signal.signal(number, stop)
    try:
        yield heeded
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def dies_by_signals() -> Iterator[None]:
    """Lets the code inside clean up when a signal ends the process, and then ends it by that signal."""
    heeded: Collection[int] = ()
    try:
        with signals_raise() as heeded:
            yield
    except Terminated as stop:
        if stop.number in heeded:
            log.warning("\n".join(["stopped by a signal", *getattr(stop, "__notes__", ())]))
            signal.raise_signal(stop.number)
        raise
