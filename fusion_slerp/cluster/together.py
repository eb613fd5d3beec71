"""A piece of work that all processes of a job do at the same time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from fusion_slerp.cluster.failures import (
    SHOWN_BY_RANK_0,
    Failure,
    error_of,
    failure_of,
    silence,
)
from fusion_slerp.cluster.liveness import Liveness
from fusion_slerp.cluster.messages import LostError, Messages
from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.interruption import check_signals

if TYPE_CHECKING:
    from fusion_slerp.cluster.ranks import Ranks

T = TypeVar("T")

SILENT_SHARE = 2 / 3
"""Of the timeout, a process may be silent for this part; the rest is for ending the work."""

ARRIVAL_S = 1800.0
"""How long the processes wait for each other at the beginning of a piece of work."""

SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.005, 0.1
"""Between two looks at what another process leaves."""

SHOWING_S = 0.3
"""In which rank 0 shows a failure."""

ENDED = 70
"""The exit status of a process that could not end in order: EX_SOFTWARE of sysexits.h."""

_OF_WORK = "_of_work"
"""The mark of an error that was raised because the work failed elsewhere."""


class Together:
    """A piece of work that all processes of a job do at the same time.

    Args:
        ranks: The processes.
        messages: Of the job.
        prefix: Of the names of this work's messages.
        timeout_s: If a process fails or is lost, all end within this time.
    """

    def __init__(self, ranks: Ranks, messages: Messages, prefix: str, timeout_s: float) -> None:
        self.ranks, self._messages = ranks, messages.under(prefix)
        self.timeout_s = timeout_s
        self._shown: Any = None
        self._liveness: Liveness | None = None
        self._has_ended = threading.Event()
        self._reported: Failure | None = None
        self._has_failed = False

    def begin(self) -> tuple[str, ...]:
        """Waits until all processes are here; returns their machines.

        Raises:
            FusionSlerpError: Another process failed before all were here, or is missing.
        """
        ranks = self.ranks
        try:
            self._messages.put(f"host {ranks.rank}", ranks.host)
            self._arrive()
            hosts = tuple(self._messages.get_all([f"host {k}" for k in range(ranks.count)]))
        except LostError as error:
            raise error_of(Failure(0, "an unknown machine", str(error), is_silent=True)) from error
        except BaseException as error:  # those that are here or come later would wait for this one
            with suppress(LostError):
                self._messages.put_first("failure", failure_of(error, ranks.rank, ranks.host))
                self._messages.put(f"stopped {ranks.rank}", True)
            raise
        silent_s = self.timeout_s * SILENT_SHARE
        self._liveness = Liveness(self._messages, ranks.rank, hosts, silent_s, lambda: self._shown)
        self._liveness.start()
        threading.Thread(target=self._guard, name="fusion_slerp guard", daemon=True).start()
        return hosts

    def _arrive(self) -> None:
        missing, until, look_s = list(range(self.ranks.count)), time.monotonic() + ARRIVAL_S, SHORTEST_LOOK_S
        while missing := [k for k in missing if not self._messages.has(f"host {k}")]:
            if self._messages.has("failure"):
                raise error_of(self._messages.get("failure"))
            if time.monotonic() > until:
                raise error_of(silence(missing[0], "an unknown machine", ARRIVAL_S))
            check_signals()
            time.sleep(look_s)
            look_s = min(2 * look_s, LONGEST_LOOK_S)

    def put(self, name: str, value: Any) -> None:
        """Leaves a value for the others.

        Raises:
            FusionSlerpError: The work has failed elsewhere.
        """
        self._try(lambda: self._messages.put(name, value))

    def peek(self, name: str) -> Any:
        """Returns a value that another process leaves, None if it is not there yet; also after a failure.

        Raises:
            LostError: The store cannot be reached.
        """
        return self._messages.get(name) if self._messages.has(name) else None

    def wait_for(self, name: str) -> Any:
        """Returns a value that another process leaves, as soon as it is there; checks for signals.

        Raises:
            FusionSlerpError: The work has failed elsewhere.
        """
        self.wait_until(lambda: self._has(name))
        return self._try(lambda: self._messages.get(name))

    def take(self, name: str) -> Any:
        """Does the same as `wait_for`, and removes the value, which nobody else waits for."""
        self.wait_until(lambda: self._has(name))
        return self._try(lambda: self._messages.take(name))

    def take_if_there(self, name: str) -> Any:
        """Returns a value that another process leaves, and removes it; None if it is not there yet."""
        return self._try(lambda: self._messages.take(name)) if self._has(name) else None

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until a condition holds.

        Raises:
            FusionSlerpError: The work has failed elsewhere.
        """
        look_s = SHORTEST_LOOK_S
        while not condition():
            self.check()
            time.sleep(look_s)
            look_s = min(1.5 * look_s, LONGEST_LOOK_S)

    def check(self) -> None:
        """Returns if the work has not failed anywhere; checks for signals.

        Raises:
            FusionSlerpError: It has.
        """
        check_signals()
        failure = self._alive.failure
        if failure is not None:
            raise self._error_of(failure)

    def show(self, state: Any) -> None:
        """Leaves a state with the next signs of life, for rank 0; plain values."""
        self._shown = state

    @property
    def shown(self) -> dict[int, Any]:
        """The latest states of the others; on rank 0."""
        return dict(self._alive.states)

    def report(self, error: BaseException) -> BaseException:
        """Reports an error of this process to the others, unless another one was first.

        Returns:
            The error to raise: the same one, or that of the process which failed first.
        """
        if isinstance(error, FusionSlerpError) and getattr(error, _OF_WORK, None) is self:
            return error
        own = failure_of(error, self.ranks.rank, self.ranks.host)
        if self._reported is None:
            self._reported = self._alive.report(own)
        if self._reported.rank == self.ranks.rank or str(self._reported.error) == str(error):
            return error
        if isinstance(error, FusionSlerpError | OSError | LostError):  # likely a consequence of the first one
            return self._error_of(self._reported)
        return error

    def fail(self, error: BaseException) -> BaseException:
        """Reports an error, and says that this process has stopped; returns the error to raise."""
        if self._liveness is None or self._has_failed:  # the error says more by now
            return error
        self._has_failed = True
        raised = self.report(error)
        try:
            self._messages.put(f"stopped {self.ranks.rank}", True)
        except LostError:
            return raised
        if self.ranks.is_first:
            self._wait_for("stopped", range(1, self.ranks.count))
        elif self._wait_for("stopped", [0]) and isinstance(raised, Exception):
            setattr(raised, SHOWN_BY_RANK_0, True)
            time.sleep(SHOWING_S)  # a launcher ends all when the first one ends
        return raised

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Reports an error that is raised inside, and raises the one that says most; see `fail`."""
        try:
            yield
        except BaseException as error:
            raised = self.fail(error)
            if raised is error:
                raise
            raise raised from raised.__cause__

    def end(self) -> None:
        """Waits until all processes have ended the work: rank 0 the last, which may keep the store."""
        if not self.ranks.is_first:
            self.put(f"ended {self.ranks.rank}", True)
            self.wait_for("ended")
            self._messages.put(f"gone {self.ranks.rank}", True)
            return
        self.wait_until(lambda: all(self._has(f"ended {k}") for k in range(1, self.ranks.count)))
        self.put("ended", True)
        self._wait_for("gone", range(1, self.ranks.count))

    def close(self) -> None:
        """Ends the threads."""
        self._has_ended.set()
        if self._liveness is not None:
            self._liveness.stop()

    @property
    def _alive(self) -> Liveness:
        assert self._liveness is not None, "the work has not begun"
        return self._liveness

    @property
    def _grace_s(self) -> float:
        return self.timeout_s * (1 - SILENT_SHARE) / 2

    def _wait_for(self, name: str, ranks: Sequence[int]) -> bool:
        """Waits until processes have left values `NAME RANK`, but not for silent ones, nor for long.

        Returns:
            Whether all have.
        """
        until, look_s = time.monotonic() + self._grace_s, SHORTEST_LOOK_S
        try:
            while missing := [k for k in ranks if not self._messages.has(f"{name} {k}")]:
                if all(map(self._alive.is_silent, missing)) or time.monotonic() > until:
                    return False
                time.sleep(look_s)
                look_s = min(1.5 * look_s, LONGEST_LOOK_S)
        except LostError:
            return False
        return True

    def _has(self, name: str) -> bool:
        return self._try(lambda: self._messages.has(name))

    def _try(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except LostError as error:
            self.check()
            failure = Failure(0, "the machine of rank 0", str(error), is_silent=True)
            raise self._error_of(self._alive.report(failure)) from error

    def _error_of(self, failure: Failure) -> FusionSlerpError:
        is_shown = not self.ranks.is_first and not (failure.is_silent and failure.rank == 0)
        error = error_of(failure, is_shown)
        setattr(error, _OF_WORK, self)
        self._reported = failure
        return error

    def _guard(self) -> None:
        """Ends the process if it does not stop in time after a failure.

        It may wait forever: for a disk, or for an answer from the store of a process that is frozen.
        """
        while not self._has_ended.wait(LONGEST_LOOK_S):
            self._alive.check_answers()
            failure = self._alive.failure
            if failure is not None and not self._has_ended.wait(2 * self._grace_s):
                print(f"rank {self.ranks.rank} ends: {error_of(failure)}", file=sys.stderr, flush=True)
                os._exit(ENDED)
