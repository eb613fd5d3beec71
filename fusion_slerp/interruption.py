"""Signals that end a process become exceptions, raised where the work can be left in order.

An exception that is raised between any two instructions may leave a lock locked for which threads then wait
forever, or be lost in a callback of the garbage collector. So while threads work, signals wait until the main
thread heeds them: `signals_wait`, `heed`, `result_of`.

Nothing is changed at import, nor in a program that has its own handlers.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

log = logging.getLogger(__name__)

R = TypeVar("R")

HEEDED = ("SIGTERM", "SIGHUP")
"""The signals that become exceptions. Windows has no SIGHUP; Ctrl-C already raises one."""

AGAIN_S = 5.0
"""For so long after a signal, others do not disturb the cleanup."""

PATIENCE_S = 1.0
"""After that, a signal that comes again need not wait until it is heeded."""

LOOK_S = 0.1
"""Between two looks at whether a signal has come, while the main thread waits."""


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
    known = (getattr(signal, name, None) for name in HEEDED)
    heeded = [number for number in known if number and signal.getsignal(number) == signal.SIG_DFL]
    if not _is_main_thread():
        heeded = []
    last: list[float] = []

    def stop(number: int, frame: object) -> None:
        now = time.monotonic()
        if not last or now - last[-1] > AGAIN_S:
            last.append(now)
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


class _Waiting:
    """Signals that wait until the main thread heeds them.

    Args:
        handlers: The handlers that the signals have.
    """

    def __init__(self, handlers: dict[int, Callable[[int, Any], object]]) -> None:
        self.handlers = handlers
        self.received: dict[int, float] = {}
        """When each signal came."""
        self.is_over = False

    def remember(self, number: int, frame: Any) -> None:
        """Handles a signal: its own handler is called later, or at once if it was not heeded for long."""
        now = time.monotonic()
        if self.is_over or now - self.received.setdefault(number, now) > PATIENCE_S:
            self.handlers[number](number, frame)

    def handle(self) -> None:
        """Calls the handlers of what was received; as a rule they raise."""
        while self.received:
            number, _ = self.received.popitem()
            self.handlers[number](number, None)


_waiting: _Waiting | None = None
"""Of the main thread, inside `signals_wait`."""


@contextmanager
def signals_wait() -> Iterator[None]:
    """Calls the handlers of Ctrl-C and of signals to end where the main thread heeds them, and at the end.

    A signal that comes again `PATIENCE_S` later, and was not heeded, is handled at once. In other threads,
    and inside another such context, nothing changes.
    """
    global _waiting
    if not _is_main_thread() or _waiting is not None:
        yield
        return
    numbers = [number for name in ("SIGINT", *HEEDED) if (number := getattr(signal, name, None))]
    handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    mine = _waiting = _Waiting(handlers)
    try:
        for number in handlers:
            signal.signal(number, mine.remember)
        yield
    finally:
        _waiting, mine.is_over = None, True
        for number, handler in handlers.items():
            if signal.getsignal(number) == mine.remember:
                signal.signal(number, handler)
        mine.handle()


def heed() -> None:
    """Handles the signals that wait: called where the work can be left. Does nothing in other threads."""
    if _waiting is not None and _waiting.received and _is_main_thread():
        _waiting.handle()


def result_of(future: futures.Future[R]) -> R:
    """Returns the result of a future, waits for it, and heeds signals meanwhile."""
    wait_for(future)
    return future.result()


def wait_for(future: futures.Future[Any]) -> None:
    """Waits until a future is done, in whatever way; heeds signals meanwhile."""
    heed()
    while not future.done():
        with suppress(futures.TimeoutError, futures.CancelledError):
            future.exception(LOOK_S)
        heed()


@contextmanager
def pool(n: int, name: str) -> Iterator[futures.ThreadPoolExecutor]:
    """Threads for results that `result_of` waits for; after a failure or signal, no more tasks are begun."""
    with signals_wait():
        threads = futures.ThreadPoolExecutor(n, name)
        try:
            yield threads
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
        threads.shutdown()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
