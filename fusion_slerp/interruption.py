"""Signals that ask a process to end, as exceptions: what is under way is then left in order.

Nothing is changed at import, and nothing in a program that has handlers of its own.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

HEEDED = ("SIGTERM", "SIGHUP")
"""Windows has no SIGHUP. Ctrl-C is an exception already."""


class Terminated(BaseException):
    """The process was asked to end.

    Attributes:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def signals_raise() -> Iterator[Collection[int]]:
    """Raises `Terminated` where a signal would end the process; signals with another handler stay with it.

    Once: what is left in order after the first signal is not disturbed by a second. Gives the numbers of
    the signals that it heeds: none outside the main thread, where it cannot.
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
    """Lets the code inside leave things in order when a signal ends the process, which it then does."""
    heeded: Collection[int] = ()
    try:
        with signals_raise() as heeded:
            yield
    except Terminated as stop:
        if stop.number in heeded:
            log.warning("\n".join(["stopped by a signal", *getattr(stop, "__notes__", ())]))
            signal.raise_signal(stop.number)
        raise
