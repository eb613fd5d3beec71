"""Angles and norms of two checkpoints, tensor by tensor: the first pass of a merge alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat

from fusion_slerp.engine.buffers import Buffers
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.tensor_work import Measured, TensorWork
from fusion_slerp.planning.plan import MergePlan, TensorPlan
from fusion_slerp.sources.open_files import InputFiles

AHEAD = 64
"""Chunks that are asked for before the first is waited for: no thread runs dry, and few results wait."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One tensor, measured.

    Attributes:
        report: Its angle and norms; `rule` is what a merge at t = 0.5 would do.
        nbytes: Bytes that were read for it.
    """

    report: TensorReport
    nbytes: int


def measure_pairs(plan: MergePlan) -> Iterator[Measurement]:
    """Yields what `execute` would measure, in the plan's order; writes nothing.

    One pass over both parents, float64 sums, in the buffers of `plan.memory`. A tensor that would be
    copied is not read, and its report has no angle. Where the vocabularies differ, angle and norms of an
    embedding are those of the merged rows.

    Args:
        plan: Made with a t inside (0, 1), so that tensors are merged.

    Raises:
        CheckpointError: A weight is not finite, or a file cannot be read.
    """
    with (
        InputFiles.of(plan) as inputs,
        ThreadPoolExecutor(plan.memory.workers, "fusion_slerp worker") as workers,
    ):
        work = TensorWork(inputs, plan.settings, Buffers(plan.memory), plan.memory.threads)
        work.prepare(plan.tensors)
        try:
            yield from _measured(plan, work, workers)
        except BaseException:
            workers.shutdown(wait=True, cancel_futures=True)
            raise


def _measured(plan: MergePlan, work: TensorWork, workers: ThreadPoolExecutor) -> Iterator[Measurement]:
    waiting: deque[tuple[TensorPlan, list[Future[Measured]]]] = deque()
    n_waiting = 0
    for tensor in chain(plan.tensors, repeat(None)):
        while waiting and (tensor is None or n_waiting > AHEAD):
            first, futures = waiting.popleft()
            n_waiting -= len(futures)
            _, report = work.decide(first, [future.result().sums for future in futures])
            yield Measurement(report, first.nbytes_in if futures else 0)
        if tensor is None:
            return
        chunks = tensor.chunks if tensor.action == "merge" else []
        futures = [workers.submit(work.measure, tensor, chunk, False) for chunk in chunks]
        waiting.append((tensor, futures))
        n_waiting += len(futures)
