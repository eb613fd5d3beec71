"""The course of a shared merge: ranks that work through their phases at the same time.

A phase reads, computes and writes at once, and ends when all three have ended. Ranks that read or write at
the same moment share the bandwidth of their node, and that of the file system, equally. So the time is found
step by step, from the end of one phase to that of the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.planning.memory import WAITING_RESULTS, WRITERS

BUFFER_NBYTES = WRITERS * (1 + WAITING_RESULTS) * 2 * CHUNK_ELEMENTS
"""Results in bfloat16 that wait to be written while the next tensor is measured."""
BOUNDLESS = 1e9
"""GB/s, in place of inf."""

LIMITS = (
    "node's reading",
    "shared reading",
    "computing",
    "node's writing",
    "shared writing",
    "waiting",
    "fixed",
)
"""What a phase can wait for, as results name it: a node's own bandwidth, that of the shared file system,
processors, another rank's measurement, or what takes the same time for any model: start, publishing.
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """Nodes, their file system, and the rates of the program on them. Bandwidths in GB/s (10^9 bytes).

    Attributes:
        nodes: How many there are.
        ranks_per_node: Processes on each.
        threads: Processors of a node, which its ranks share.
        read: Of a node from its disk, or of its client of the file system.
        write: Likewise.
        network: Of a node, in each direction; inf if the file system is a local disk.
        total_read: Of the file system, for all nodes together.
        total_write: Likewise.
        slowdown: How much a node's writing slows down its reading, and the reverse, if it does both at once:
            0 not at all, 1 as if one waited for the other, as on one disk.
        measure_ns: Per element of two models and processor.
        combine_ns: Likewise.
        read_cpu: Processor seconds per GB that comes from the file system.
        cached_cpu: Processor seconds per GB that is read again, from the page cache.
        write_cpu: Processor seconds per GB that is written: digest and system.
        task_us: Processor time per chunk and pass, in microseconds.
        start_s: From the command until the plan begins: imports, rendezvous.
        plan_us: Planning, report and manifest, per tensor of the model, in microseconds.
        file_s: For the digest, fsync and journal line of a rank's last file.
        end_s: For publishing.
        spread_s: From the start of the first rank to that of the last.
    """

    nodes: int = 1
    ranks_per_node: int = 1
    threads: int = 16
    read: float = 3.0
    write: float = 3.0
    network: float = 3.0
    total_read: float = 40.0
    total_write: float = 20.0
    slowdown: float = 0.0
    measure_ns: float = 0.15
    combine_ns: float = 0.31
    read_cpu: float = 0.3
    cached_cpu: float = 0.1
    write_cpu: float = 0.1
    task_us: float = 60.0
    start_s: float = 5.0
    plan_us: float = 60.0
    file_s: float = 0.02
    end_s: float = 0.1
    spread_s: float = 1.0

    @property
    def ranks(self) -> int:
        """All processes."""
        return self.nodes * self.ranks_per_node

    @property
    def hosts(self) -> list[str]:
        """The node of each process."""
        return [f"node {rank // self.ranks_per_node}" for rank in range(self.ranks)]


class Phase(NamedTuple):
    """A part of a rank's work that ends when all that it does has ended.

    Attributes:
        read: GB from the file system.
        cpu: Processor seconds.
        write: GB.
        needs: The tensor whose measurement by another rank it waits for.
        gives: The tensor that it measures for another rank.
        fixed: Seconds that nothing shortens.
        buffer: GB that may wait to be written at its end.
    """

    read: float = 0.0
    cpu: float = 0.0
    write: float = 0.0
    needs: str | None = None
    gives: str | None = None
    fixed: float = 0.0
    buffer: float = BUFFER_NBYTES / 1e9

    def times(self, n: int) -> Phase:
        """N such phases in a row: everything grows alike, so that they take N times as long."""
        return self._replace(
            read=n * self.read, cpu=n * self.cpu, write=n * self.write, buffer=n * self.buffer
        )


def run(work: list[list[Phase]], machine: Machine) -> tuple[float, dict[str, float]]:
    """Returns when the last rank ends, and what that rank waited for."""
    running = _Running(work, machine)
    while running.advance():
        pass
    last = int(np.argmax(running.ended))
    limits = {name: float(s) for name, s in zip(LIMITS, running.limits[last], strict=True)}
    return float(running.ended[last]), limits


class _Running:
    """The state of all ranks at a moment; `left` has what remains of their phases, a row a resource."""

    READ, CPU, WRITE, FIXED = range(4)

    def __init__(self, work: list[list[Phase]], machine: Machine) -> None:
        n = len(work)
        self._work, self._machine = [iter(own) for own in work], machine
        self._node = np.arange(n) // machine.ranks_per_node
        self._phase: list[Phase | None] = [None] * n
        self._given: set[str] = set()
        self._waiting: dict[str, int] = {}
        self.left = np.zeros((4, n))
        self.buffer = np.zeros(n)
        self.is_blocked = np.zeros(n, bool)
        self.is_over = np.zeros(n, bool)
        self.now = 0.0
        self.ended = np.zeros(n)
        self.limits = np.zeros((n, len(LIMITS)))
        for rank in range(n):
            self._next(rank)

    def advance(self) -> bool:
        """Goes on to the end of the next phase; returns whether any rank still works."""
        if self.is_over.all():
            return False
        rates, is_shared = self._rates()
        pending = self.left.copy()
        pending[self.WRITE] = np.maximum(pending[self.WRITE] - self.buffer, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.where(pending > 0, pending / rates, 0.0)
            until_empty = np.where(self.left > 0, self.left / rates, np.inf)
        needed[:, self.is_blocked] = np.inf
        remaining = np.where(self.is_over, np.inf, needed.max(axis=0))
        # Bandwidth is divided again when a phase ends and when one of its parts does.
        step = min(remaining.min(), until_empty.min())
        assert math.isfinite(step), "all ranks wait for each other"
        self._account(needed, is_shared, step)
        self.left = np.maximum(self.left - rates * step, 0.0)
        self.left[self.left < 1e-12] = 0.0
        self.now += step
        for rank in np.flatnonzero(remaining <= step * (1 + 1e-9) + 1e-12):
            self._end(int(rank))
        return True

    def _rates(self) -> tuple[np.ndarray, np.ndarray]:
        """What each rank gets of each resource, and whether reading and writing are limited by all nodes'."""
        m, node = self._machine, self._node
        is_active = self.left > 0
        on_node = np.stack([np.bincount(node, row, minlength=m.nodes)[node] for row in is_active])
        on_node = np.maximum(on_node, 1)
        rates, is_shared = np.ones_like(self.left), np.zeros((4, len(node)), bool)
        for row, own, total in (
            (self.READ, min(m.read, m.network), m.total_read),
            (self.WRITE, min(m.write, m.network), m.total_write),
        ):
            other = is_active[self.WRITE if row == self.READ else self.READ]
            n_other = np.bincount(node, other, minlength=m.nodes)[node]
            mine = own / (on_node[row] + m.slowdown * n_other)
            all_of = total / max(int(is_active[row].sum()), 1)
            rates[row] = np.minimum(mine, all_of)
            is_shared[row] = all_of < mine
        per_rank = m.threads / m.ranks_per_node
        rates[self.CPU] = np.minimum(max(per_rank, 1), m.threads / on_node[self.CPU])
        return np.where(is_active, np.minimum(rates, BOUNDLESS), 0.0), is_shared

    def _account(self, needed: np.ndarray, is_shared: np.ndarray, step: float) -> None:
        slowest = needed.argmax(axis=0)
        ranks = np.arange(len(slowest))
        column = np.array([0, 2, 3, 6])[slowest] + is_shared[slowest, ranks]
        column[self.is_blocked] = LIMITS.index("waiting")
        active = ranks[~self.is_over]
        self.limits[active, column[active]] += step

    def _end(self, rank: int) -> None:
        phase = self._phase[rank]
        assert phase is not None
        if phase.gives is not None:
            self._given.add(phase.gives)
            if (waiting := self._waiting.pop(phase.gives, None)) is not None:
                self._begin(waiting)
        self._next(rank)

    def _next(self, rank: int) -> None:
        phase = self._phase[rank] = next(self._work[rank], None)
        if phase is None:
            self.is_over[rank], self.ended[rank] = True, self.now
            return
        if phase.needs is not None and phase.needs not in self._given:
            self.is_blocked[rank] = True
            self._waiting[phase.needs] = rank
        else:
            self._begin(rank)

    def _begin(self, rank: int) -> None:
        phase = self._phase[rank]
        assert phase is not None
        self.is_blocked[rank] = False
        self.left[[self.READ, self.CPU, self.FIXED], rank] = phase.read, phase.cpu, phase.fixed
        self.left[self.WRITE, rank] += phase.write
        self.buffer[rank] = phase.buffer
