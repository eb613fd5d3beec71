"""The processes of a job, and what they do together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from fusion_slerp.cluster.messages import Messages
from fusion_slerp.cluster.together import Together
from fusion_slerp.settings.merge_settings import available_cpus

T = TypeVar("T")

TIMEOUT_S = 60.0
"""The default of `rank_timeout`."""


class Ranks:
    """The processes of a job that do the same. Rank 0 alone logs, and shows progress.

    Args:
        messages: What they leave for each other; None for a process alone.
        rank: Of this process.
        count: How many there are.
    """

    def __init__(self, messages: Messages | None = None, rank: int = 0, count: int = 1) -> None:
        self._messages, self.rank, self.count = messages, rank, count
        self.timeout_s = TIMEOUT_S
        """Of work for which no other is given."""
        self._n_begun = 0
        self.host = platform.node()
        self._hosts: tuple[str, ...] = (self.host,) if count == 1 else ()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """The machine of each process; the first call waits for all of them."""
        if not self._hosts:
            with self.work():
                pass
        return self._hosts

    def share_of_threads(self, n: int) -> int:
        """Returns how many of a machine's threads this process takes: it shares them with its neighbours."""
        return max(1, n // self.hosts.count(self.host))

    def with_threads(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options of a merge in which this process takes its part of the processors."""
        if self.count == 1 or options.get("threads") is not None:
            return dict(options)
        return {**options, "threads": self.share_of_threads(available_cpus())}

    def on_first(self, work: Callable[[], T], timeout_s: float | None = None) -> T:
        """Runs work on rank 0 alone and returns its result on every rank; plain data only.

        Raises:
            BaseException: What the work raises, on rank 0; the others raise an error that names it.
        """
        if self.count == 1:
            return work()
        with self.work(timeout_s) as together:
            if self.is_first:
                result = work()
                together.put("result", result)
                return result
            return together.wait_for("result")

    def on_all(self, work: Callable[[], T], timeout_s: float | None = None) -> T:
        """Runs work on every rank and returns its own result; if it fails on one, all fail.

        Raises:
            BaseException: What the work raises on this rank, or an error that names what it raises elsewhere.
        """
        if self.count == 1:
            return work()
        with self.work(timeout_s):
            return work()

    @contextmanager
    def work(self, timeout_s: float | None = None) -> Iterator[Together]:
        """Begins a piece of work, for which all processes wait, and ends it when all have ended it.

        Args:
            timeout_s: If a process fails or is lost, all end within this time; None takes `self.timeout_s`.

        Raises:
            FusionSlerpError: Another process failed or is lost.
        """
        assert self._messages is not None, "one process works alone"
        self._n_begun += 1
        within_s = self.timeout_s if timeout_s is None else timeout_s
        together = Together(self, self._messages, f"{self._n_begun}", within_s)
        self._hosts = together.begin()
        try:
            with together.reporting():
                yield together
                together.end()
        finally:
            together.close()


ALONE = Ranks()
