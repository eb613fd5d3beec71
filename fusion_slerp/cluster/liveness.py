"""Signs of life: each process leaves a count that grows, and looks whether those of others do.

Rank 0 watches all others, and they watch rank 0. Whoever finds that the work has failed, or that a process is
silent for too long, leaves that for all to see. So all processes learn of it within seconds, whatever they
are waiting for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fusion_slerp.cluster.failures import Failure, silence
from fusion_slerp.cluster.messages import LostError, Messages

INTERVAL_S = 0.5
"""Between two signs of life, if there are not many processes."""

RANKS_PER_SECOND = 100
"""Of many processes: the store answers that many of them in a second, with ease."""


class Liveness:
    """Signs of life of one process while it works, and its view of the others; a thread of its own.

    Args:
        messages: Of this piece of work.
        rank: Of this process.
        hosts: The machine of each process.
        timeout_s: How long a process may be silent.
        state: Returns what is left with each sign of life: plain values.
    """

    def __init__(
        self,
        messages: Messages,
        rank: int,
        hosts: tuple[str, ...],
        timeout_s: float,
        state: Callable[[], Any],
    ) -> None:
        self._messages, self._rank, self._hosts, self._timeout_s = messages, rank, hosts, timeout_s
        self._state = state
        self._watched = [k for k in range(len(hosts)) if k != rank] if rank == 0 else [0]
        self._interval_s = max(INTERVAL_S, len(hosts) / RANKS_PER_SECOND)
        self._beats: dict[int, int] = {}
        self._heard: dict[int, float] = {}
        self._answered = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fusion_slerp liveness", daemon=True)
        self.states: dict[int, Any] = {}
        """The latest state of each process that is watched."""
        self.failure: Failure | None = None
        """Why the work ends, once that is known."""

    def start(self) -> None:
        """Begins; all processes have begun the work."""
        self._answered = time.monotonic()
        self._heard = dict.fromkeys(self._watched, self._answered)
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def report(self, failure: Failure) -> Failure:
        """Leaves a failure for all to see; returns the first one, by whomever."""
        try:
            first: Failure = self._messages.put_first("failure", failure)
        except LostError:
            first = self.failure or failure
        self.failure = first
        return first

    def check_answers(self) -> None:
        """Finds that rank 0 is lost, if its store has not answered for too long; from another thread."""
        if self.failure is None and time.monotonic() - self._answered > self._timeout_s:
            self.failure = silence(0, self._hosts[0], self._timeout_s)

    def is_silent(self, rank: int) -> bool:
        """Whether a watched process has given no sign of life for too long."""
        return time.monotonic() - self._heard[rank] > self._timeout_s

    def _run(self) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            try:
                self._look(count)
                self._answered = time.monotonic()
            except LostError:
                if self.is_silent(self._watched[0]):  # of rank 0, or of those that cannot reach its store
                    self._found(self._watched[0])
            self._stop.wait(self._interval_s)

    def _look(self, count: int) -> None:
        self._messages.put(f"beat {self._rank}", (count, self._state()))
        if self.failure is None and self._messages.has("failure"):
            self.failure = self._messages.get("failure")
        there = [k for k in self._watched if k in self._beats or self._messages.has(f"beat {k}")]
        beats = self._messages.get_all([f"beat {k}" for k in there]) if there else []
        now = time.monotonic()
        for k, (beat, state) in zip(there, beats, strict=True):
            self.states[k] = state
            if self._beats.get(k) != beat:
                self._beats[k], self._heard[k] = beat, now
        for k in self._watched:
            if self.is_silent(k):
                self._found(k)

    def _found(self, rank: int) -> None:
        if self.failure is None:
            self.report(silence(rank, self._hosts[rank], self._timeout_s))
