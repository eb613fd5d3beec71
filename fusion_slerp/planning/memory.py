"""The memory that a merge takes, by purpose: decided with the plan, and kept by the execution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fusion_slerp.chunks import CHUNK_ELEMENTS, PAGE_NBYTES, whole_pages
from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.settings.merge_settings import MergeSettings

WRITERS = 2
"""Threads that write; with direct I/O they wait for the disk and take almost no CPU time."""

READERS = 1
"""Worker threads beyond those that may compute: one reads ahead while the others are busy."""

WAITING_RESULTS = 3
"""Results per writer that wait to be written, so that the disk is busy while tensors are measured."""

KEPT_CHUNKS = 6
"""Chunks kept without a budget. More is slower: a second read from the page cache costs less than new memory.
"""

MAX_NBYTES = 200_000_000
"""Limit without a budget: no more threads than need this much, but at least one."""

STEPS_UNDER_WAY = 8
"""Tensors or batches that may be in progress at once: enough that no thread runs idle."""

MAX_BATCH = 1024
"""Small tensors that are read into one buffer."""

SLACK_NBYTES = 8 * MAX_BATCH
"""Bytes beyond the elements of a chunk, for each model: a batch's tensors start at multiples of 8 bytes."""

PROCESS_NBYTES = 125_000_000
"""Python, numpy and the kernels' compiler (measured on Linux with Python 3.11: 115-125 MB)."""

TORCH_NBYTES = 200_000_000
"""Added by torch, which reads a parent stored in its format (measured with torch 2.13: 201 MB)."""


ORDER_NBYTES = 12_000_000
"""Added for each worker by sources whose elements have to be put in order: a window of the file, and a chunk
of each matrix of an expert (measured with two threads: 30 MB).
"""


SELECTION_NBYTES = 8_000_000
"""Added for each worker by a method that selects elements: masks, counters and compiled loops (measured with
two threads: 11 to 22 MB).
"""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The buffers of a merge; memory that a small merge does not need is never touched.

    Attributes:
        threads: Threads that compute at a time.
        kept_chunks: Measured chunks that may be kept in memory until they are combined; the other
            chunks of a larger tensor are read a second time.
        in_nbytes: Size of a buffer for one chunk of every source.
        out_nbytes: Size of a buffer for one chunk of the merged model.
    """

    threads: int
    kept_chunks: int
    in_nbytes: int
    out_nbytes: int

    @property
    def workers(self) -> int:
        """Number of worker threads: those that compute, and one that reads."""
        return self.threads + READERS

    @property
    def n_ins(self) -> int:
        """Buffers for chunks of the sources: kept ones, one per worker, and one for the calling thread."""
        return self.kept_chunks + self.workers + 1

    @property
    def n_outs(self) -> int:
        """Buffers for results: one per worker, those being written, and those waiting to be written."""
        return self.workers + WRITERS * (1 + WAITING_RESULTS)

    @property
    def nbytes(self) -> int:
        """Size of all buffers together."""
        return self.n_ins * self.in_nbytes + self.n_outs * self.out_nbytes


def plan_memory(
    settings: MergeSettings, in_widths: Iterable[int], out_widths: Iterable[int], longest: int, n_models: int
) -> MemoryPlan:
    """Divides the memory budget.

    Args:
        settings: For `memory_budget` and `threads`. If `threads` is not set, there are no more of
            them than the budget has buffers for.
        in_widths: Bytes per element of each tensor's sources together.
        out_widths: Bytes per element of each tensor of the merged model.
        longest: Number of chunks of the longest tensor; no more need to be kept.
        n_models: Number of models.

    Raises:
        SettingsError: The budget is too small for the threads.
    """
    in_nbytes = whole_pages(CHUNK_ELEMENTS * max(in_widths, default=1)) + SLACK_NBYTES * n_models
    out_nbytes = whole_pages(CHUNK_ELEMENTS * max(out_widths, default=1)) + PAGE_NBYTES
    budget = settings.memory_nbytes or MAX_NBYTES
    most = longest if settings.memory_nbytes else min(longest, KEPT_CHUNKS)

    def with_threads(threads: int) -> MemoryPlan:
        least = MemoryPlan(threads, 0, in_nbytes, out_nbytes)
        kept = max(0, budget - least.nbytes) // in_nbytes
        return MemoryPlan(threads, min(kept, most), in_nbytes, out_nbytes)

    memory = with_threads(settings.n_threads)
    while settings.threads is None and memory.nbytes > budget and memory.threads > 1:
        memory = with_threads(memory.threads - 1)
    if settings.memory_nbytes and memory.nbytes > budget:
        fields = (
            ("found", f"{settings.memory_budget} for {memory.threads} thread{'s' * (memory.threads > 1)}"),
            ("needed", f"{memory.nbytes} bytes: chunks of {CHUNK_ELEMENTS} elements, in and out"),
        )
        fix = f"use {setting('memory_budget', f'{-(-memory.nbytes // 10**6)}MB')}"
        raise Problem(SettingsError, "memory_budget is too small", fields, fix).error()
    return memory
