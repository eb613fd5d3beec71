"""How the main thread waits for other threads: without missing Ctrl-C or a signal to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from fusion_slerp.interruption import check_signals, deferred_signals

T = TypeVar("T")
R = TypeVar("R")

POLL_S = 0.1
"""How often the main thread checks for signals while it waits."""


def result_of(future: futures.Future[R]) -> R:
    """Returns the result of a future, waits for it, and checks for signals meanwhile."""
    wait_for(future)
    return future.result()


def wait_for(future: futures.Future[Any]) -> None:
    """Waits until a future is done, in whatever way; checks for signals meanwhile."""
    check_signals()
    while not future.done():
        with suppress(futures.TimeoutError, futures.CancelledError):
            future.exception(POLL_S)
        check_signals()


@contextmanager
def pool(n: int, name: str) -> Iterator[futures.ThreadPoolExecutor]:
    """Threads for what `results` waits for; after a failure or a signal, no more tasks are begun."""
    with deferred_signals():
        threads = futures.ThreadPoolExecutor(n, name)
        try:
            yield threads
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
        threads.shutdown()


def results(threads: futures.ThreadPoolExecutor, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Submits a task for each item; yields their results in order, and checks for signals meanwhile."""
    for future in [threads.submit(task, item) for item in items]:
        yield result_of(future)
