"""Bytes done of each pass, the rate, and the time left where passes differ in speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

HALF_LIFE_S = 30.0
"""Speeds forget half of what they know in this time, so that the time left follows a disk that slows down."""


@dataclass(slots=True)
class Pass:
    """One kind of work.

    Attributes:
        total: Its bytes, as far as they are known in advance.
        done: Its bytes that are done.
        recent_nbytes: Bytes done, older ones weighted less.
        recent_s: Seconds spent on it, older ones weighted less.
    """

    total: int
    done: int = 0
    recent_nbytes: float = 0.0
    recent_s: float = 0.0


class Tally:
    """Counts bytes by pass. The seconds between two calls of `add` belong to the pass of the second.

    Args:
        totals: The bytes of each pass.
        done: Those that an earlier run has done.
        clock: Returns seconds; replaced in tests.
    """

    def __init__(
        self,
        totals: Mapping[str, int],
        done: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        before = done or {}
        self.passes = {name: Pass(total, before.get(name, 0)) for name, total in totals.items()}
        self.doing = next(iter(totals), "")
        self.subject = ""
        self._clock = clock
        self._started = self._last = clock()

    def add(self, nbytes: int, doing: str, subject: str = "") -> None:
        """Adds bytes that were just done.

        Args:
            nbytes: Their number. More than the pass's total increases it.
            doing: The pass.
            subject: The tensor or file that they belong to.
        """
        now = self._clock()
        elapsed_s, self._last = now - self._last, now
        kept = 0.5 ** (elapsed_s / HALF_LIFE_S)
        for each in self.passes.values():
            each.recent_nbytes *= kept
            each.recent_s *= kept
        own = self.passes.setdefault(doing, Pass(0))
        own.recent_nbytes += nbytes
        own.recent_s += elapsed_s
        own.done += nbytes
        own.total = max(own.total, own.done)
        self.doing, self.subject = doing, subject

    def end(self) -> None:
        """Leaves out what was expected and not needed, such as passes that the values did not require."""
        for each in self.passes.values():
            each.total = each.done

    @property
    def done(self) -> int:
        """Bytes done in all passes."""
        return sum(each.done for each in self.passes.values())

    @property
    def total(self) -> int:
        """Bytes of all passes."""
        return sum(each.total for each in self.passes.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._started

    @property
    def rate(self) -> float | None:
        """Bytes a second of all passes together, of late; None before any time has passed."""
        seconds = sum(each.recent_s for each in self.passes.values())
        return sum(each.recent_nbytes for each in self.passes.values()) / seconds if seconds > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds left, each pass at its own speed of late, or at the mean one before its first byte."""
        rate = self.rate
        if rate is None:
            return None
        costs = (
            (each.total - each.done, each.recent_s / each.recent_nbytes if each.recent_nbytes else 1 / rate)
            for each in self.passes.values()
            if rate > 0
        )
        return sum(nbytes * cost for nbytes, cost in costs)
