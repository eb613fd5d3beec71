"""Angles and norms of checkpoints, tensor by tensor: a merge that measures and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fusion_slerp.engine import batches
from fusion_slerp.engine.executor import groups_of, is_large, open_files, prepare
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.steps import InEach, Key, Large, OnBytes
from fusion_slerp.engine.threads import Threads
from fusion_slerp.planning.plan import BOX, Merge, MergePlan, TensorPlan


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured tensor.

    Attributes:
        report: Its angle and norms; `rule` is the one that the merge would apply.
        nbytes: Number of its bytes that were measured.
    """

    report: TensorReport
    nbytes: int


def measure(plan: MergePlan) -> Iterator[Measurement]:
    """Yields the measurements of `execute`, in the plan's order, without writing anything.

    It makes the passes that the method requests, in float64, in the buffers of `plan.memory`. Each tensor is
    measured as a whole, even if a merge would take its rows or columns separately. A tensor that would be
    copied is not read, and its report has no angle. If the vocabularies differ, an embedding's angle and
    norms are those of its merged rows.

    Args:
        plan: Made with values that merge tensors, such as t = 0.5.

    Raises:
        CheckpointError: A weight is not finite, or a file cannot be read.
    """
    tensors = [_whole(tensor) for tensor in plan.tensors]
    with open_files(plan, tensors) as files, Threads(plan.memory, files) as threads:
        prepare(tensors, plan.settings)
        for group in groups_of([(tensor,) for tensor in tensors]):
            reports = _measured(group, threads, plan)
            for (tensor,), report in zip(group, reports, strict=True):
                yield Measurement(report, tensor.nbytes_in if report.norms else 0)


def values(
    plan: MergePlan, tensors: Sequence[TensorPlan], on_bytes: OnBytes
) -> Iterator[tuple[str, dict[Key, Any]]]:
    """Yields what `execute` measures of large tensors of a plan, as it remembers it; writes nothing.

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
        for tensor in tensors:
            measured: dict[Key, Any] = {}
            Large((tensor,), threads, plan.settings, keep=False, measured=measured).decide(on_bytes)
            files.check_unchanged()
            yield tensor.out.name, measured


def _measured(group: Sequence[InEach], threads: Threads, plan: MergePlan) -> list[TensorReport]:
    if not is_large(group[0]):
        position = group[0][0].out.position()
        return threads.submit(position, batches.measure, threads, group, plan.settings.how).result()
    step = Large(group[0], threads, plan.settings, keep=False)
    step.decide(lambda *done: None)
    return step.reports()


def _whole(tensor: TensorPlan) -> TensorPlan:
    """The tensor as one unit; it is read only if it is merged."""
    if isinstance(tensor.work, Merge) and tensor.work.granularity != BOX:
        return tensor._replace(work=Merge(tensor.work.units))
    return tensor
