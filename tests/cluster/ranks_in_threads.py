"""Ranks as threads of one process, with a store of the kind that machines use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.distributed import HashStore

from fusion_slerp.cluster.messages import Messages
from fusion_slerp.cluster.ranks import Ranks

HANG_S = 120
"""No work takes that long; one that does hangs."""


@dataclass(frozen=True)
class End:
    """How a rank ended.

    Attributes:
        value: What its work returned.
        error: What it raised; None if it returned.
    """

    value: Any = None
    error: BaseException | None = None


def messages() -> Messages:
    """A store of its own."""
    return Messages(HashStore())


def run_ranks(count: int, work: Callable[[Ranks], Any], hosts: tuple[str, ...] = ()) -> list[End]:
    """Runs the same work on some ranks; returns how each ended."""
    shared, ends = messages(), dict[int, End]()

    def run(rank: int) -> None:
        ranks = Ranks(shared, rank, count)
        if hosts:
            ranks.host = hosts[rank]
        try:
            ends[rank] = End(work(ranks))
        except BaseException as error:
            ends[rank] = End(error=error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert len(ends) == count, f"only ranks {sorted(ends)} have ended"
    return [ends[rank] for rank in range(count)]


_taking_turns = threading.Lock()


def one_at_a_time(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what only one of the threads runs at a time: it sets what belongs to the whole process."""

    def locked(*args: Any, **kwargs: Any) -> Any:
        with _taking_turns:
            return call(*args, **kwargs)

    return locked
