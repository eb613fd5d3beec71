"""Signals that end a process become exceptions, raised at points where the work can be left cleanly.

An exception that is raised between any two instructions may leave a lock locked for which threads then wait
forever, or be lost in a callback of the garbage collector. So while threads work, signals are deferred until
the main thread asks for them: `deferred_signals`, `check_signals`; see also `waiting`.

Nothing is changed at import, nor in a program that has its own handlers.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

TERMINATING = ("SIGTERM", "SIGHUP")
"""The signals that become exceptions. Windows has no SIGHUP; Ctrl-C already raises one."""

IGNORE_REPEATS_S = 5.0
"""For so long after a signal, further ones do not disturb the cleanup."""

FORCE_AFTER_S = 1.0
"""A deferred signal that is repeated after so long is handled at once."""


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

    A second signal soon after the first is ignored, so that it does not disturb the cleanup. Yields the
    numbers of the signals that it handles: none outside the main thread, where Python allows no handlers.
    """
    numbers = [number for number in _numbers(*TERMINATING) if signal.getsignal(number) == signal.SIG_DFL]
    if not _is_main_thread():
        numbers = []
    last: list[float] = []

    def stop(number: int, frame: object) -> None:
        now = time.monotonic()
        if not last or now - last[-1] > IGNORE_REPEATS_S:
            last.append(now)
            raise Terminated(number)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield numbers
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def dies_by_signals() -> Iterator[None]:
    """Lets the code inside clean up when a signal ends the process, and then ends it by that signal."""
    handled: Collection[int] = ()
    try:
        with signals_raise() as handled:
            yield
    except Terminated as stop:
        if stop.number in handled:
            log.warning("\n".join(["stopped by a signal", *getattr(stop, "__notes__", ())]))
            signal.raise_signal(stop.number)
        raise


class _Deferral:
    """Signals that are kept until the main thread checks for them.

    Args:
        handlers: The handlers that the signals have.
    """

    def __init__(self, handlers: dict[int, Callable[[int, Any], object]]) -> None:
        self.handlers = handlers
        self.pending: dict[int, float] = {}
        """When each signal came."""
        self.is_over = False

    def defer(self, number: int, frame: Any) -> None:
        """Handles a signal: keeps it, or calls its own handler if it has been pending for long."""
        now = time.monotonic()
        if self.is_over or now - self.pending.setdefault(number, now) > FORCE_AFTER_S:
            self.pending.pop(number, None)
            self.handlers[number](number, frame)

    def handle(self) -> None:
        """Calls the original handlers of pending signals, in the order in which they came."""
        while self.pending:
            number = next(iter(self.pending))
            del self.pending[number]
            self.handlers[number](number, sys._getframe())


_deferrals: list[_Deferral] = []
"""Of the main thread."""


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defers Ctrl-C and signals to end until `check_signals` is called, or the end of the context.

    Their handlers are called then. A signal that is repeated after `FORCE_AFTER_S` is handled at once. If the
    code inside is left because of one, further ones are dropped. In other threads nothing changes.
    """
    mine = _Deferral(_own_handlers() if _is_main_thread() else {})
    if not mine.handlers:
        yield
        return
    _deferrals.append(mine)
    try:
        for number in mine.handlers:
            signal.signal(number, mine.defer)
        yield
    except (KeyboardInterrupt, Terminated):
        mine.pending.clear()
        raise
    finally:
        mine.is_over = True
        _deferrals.remove(mine)
        for number, handler in mine.handlers.items():
            if _is_main_thread() and signal.getsignal(number) == mine.defer:
                signal.signal(number, handler)
        mine.handle()


def check_signals() -> None:
    """Handles pending signals: called where the work can be left. Does nothing in other threads."""
    if _deferrals and _is_main_thread():
        for each in [*_deferrals]:
            each.handle()


def _own_handlers() -> dict[int, Callable[[int, Any], object]]:
    """The handlers of Ctrl-C and of signals to end, but for those that are deferred already."""
    found: dict[int, Callable[[int, Any], object]] = {}
    for number in _numbers("SIGINT", *TERMINATING):
        handler = signal.getsignal(number)
        if callable(handler) and not any(handler == each.defer for each in _deferrals):
            found[number] = handler
    return found


def _numbers(*names: str) -> list[int]:
    """The signals that this system has."""
    return [number for name in names if (number := getattr(signal, name, None))]


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
