"""Pieces of work are dealt to ranks such that all have about as much to do."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def dealt(costs: Sequence[int], count: int) -> list[int]:
    """Returns the rank that does each piece: the costliest come first, each to the rank that has least."""
    owners = [0] * len(costs)
    loads = [(0, rank) for rank in range(count)]
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, owners[i] = heapq.heappop(loads)
        heapq.heappush(loads, (load + costs[i], owners[i]))
    return owners
