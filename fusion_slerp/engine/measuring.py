"""Angles and norms of checkpoints, tensor by tensor: a merge that measures and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fusion_slerp.engine import batches
from fusion_slerp.engine.executor import groups_of, is_large, open_files, prepare
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.steps import InEach, Key, Large, OnBytes
from fusion_slerp.engine.threads import Threads
from fusion_slerp.planning.plan import BOX, Merge, MergePlan, TensorPlan
from fusion_slerp.waiting import result_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured tensor.

    Attributes:
        report: Its angle and norms; `rule` is the one that the merge would apply.
        nbytes: Number of its bytes that were measured.
    """

    report: TensorReport
    nbytes: int


def measure(plan: MergePlan) -> Generator[Measurement, None, None]:
    """Yields the measurements of `execute`, in the plan's order, without writing anything.

    It makes the passes that the method requests, in float64, in the buffers of `plan.memory`. Each tensor is
    measured as a whole, even if a merge would take its rows or columns separately. A tensor that would be
    copied is not read, and its report has no angle. If the vocabularies differ, an embedding's angle and
    norms are those of its merged rows.

    It is to be closed where its consumer may fail: until then its threads wait, and signals are deferred.

    Args:
        plan: Made with values that merge tensors, such as t = 0.5.

    Raises:
        CheckpointError: A weight is not finite, or a file cannot be read.
    """
    tensors = [_whole(tensor) for tensor in plan.tensors]
    with open_files(plan, tensors) as files, Threads(plan.memory, files) as threads:
        prepare(tensors, plan.settings)
        groups = groups_of([(tensor,) for tensor in tensors])
        for group, reports in _one_ahead((group, _measuring(group, threads, plan)) for group in groups):
            for (tensor,), report in zip(group, reports(), strict=True):
                yield Measurement(report, tensor.nbytes_in if report.norms else 0)


def values(
    plan: MergePlan, tensors: Sequence[TensorPlan], on_bytes: OnBytes
) -> Generator[tuple[str, dict[Key, Any]], None, None]:
    """Yields what `execute` measures of large tensors of a plan, as it remembers it; see `measure`.

    Args:
        plan: The merge.
        tensors: The tensors, in its order.
        on_bytes: As for `execute`.

    Yields:
        The name of each tensor, and the values of its measures.

    Raises:
        CheckpointError: A weight is not finite, or a file cannot be read.
    """
    with open_files(plan, tensors) as files, Threads(plan.memory, files) as threads:
        prepare(tensors, plan.settings)
        for tensor, (step, measured) in _one_ahead(
            (tensor, _begun(tensor, threads, plan)) for tensor in tensors
        ):
            step.decide(on_bytes)
            files.check_unchanged()
            yield tensor.out.name, measured


def _measuring(
    group: Sequence[InEach], threads: Threads, plan: MergePlan
) -> Callable[[], list[TensorReport]]:
    """Submits the tasks of a group; the function waits for them and returns the reports."""
    if not is_large(group[0]):
        position = group[0][0].out.position()
        future = threads.submit(position, batches.measure, threads, group, plan.settings.how)
        return lambda: result_of(future)
    step, _ = _begun(group[0][0], threads, plan)

    def reports() -> list[TensorReport]:
        step.decide(lambda *done: None)
        return step.reports()

    return reports


def _begun(tensor: TensorPlan, threads: Threads, plan: MergePlan) -> tuple[Large, dict[Key, Any]]:
    """Submits the tasks of a large tensor; returns it, and where it will store the values of its measures."""
    measured: dict[Key, Any] = {}
    step = Large((tensor,), threads, plan.settings, keep=False, measured=measured)
    step.begin()
    return step, measured


def _one_ahead(steps: Iterable[T]) -> Iterator[T]:
    """Yields each step after the next one has begun, so that the workers need not wait in between."""
    before: list[T] = []
    for step in steps:
        yield from before
        before = [step]
    yield from before


def _whole(tensor: TensorPlan) -> TensorPlan:
    """The tensor as one unit; it is read only if it is merged."""
    if isinstance(tensor.work, Merge) and tensor.work.granularity != BOX:
        return tensor._replace(work=Merge(tensor.work.units))
    return tensor
