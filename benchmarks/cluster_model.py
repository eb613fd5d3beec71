"""The time that a merge takes on several nodes, predicted from its plan.

The work is that of the real plan, dealt by the real `shares`. Sizes are exact, rates are the machine's;
`cluster_running` lets the ranks do it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from cluster_running import LIMITS, Machine, Phase, run

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.cluster.sharing import Share, shares
from fusion_slerp.planning.amounts import MEASURING, nbytes_by_pass, nbytes_read
from fusion_slerp.planning.plan import MergePlan, TensorPlan

GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, less whole numbers, are spread evenly: ranks do not start in step, nor in order."""
LONGEST_ROW = 24
"""Equal tensors that follow each other and are taken as one."""


class Predicted(NamedTuple):
    """What the model says.

    Attributes:
        seconds: From the command to the published folder.
        limits: Seconds by what was waited for, on the rank that ended last.
        n_files: Weight files of the merged model.
        n_helped: Tensors that another rank measures than the one that makes them.
        read: GB from the file system, by all ranks.
        busy: Ranks that make files.
    """

    seconds: float
    limits: dict[str, float]
    n_files: int
    n_helped: int
    read: float
    busy: int


def predict(plan: MergePlan, machine: Machine, dealt: list[Share] | None = None) -> Predicted:
    """Returns the time of a merge.

    Args:
        plan: The merge; only headers are needed.
        machine: Where it runs.
        dealt: What each rank does; None is what a merge does.
    """
    dealt = shares(plan, machine.hosts) if dealt is None else dealt
    late = [machine.spread_s * (GOLDEN * rank % 1) for rank in range(machine.ranks)]
    work = [
        [Phase(fixed=seconds), *phases(plan, share, machine)]
        for seconds, share in zip(late, dealt, strict=True)
    ]
    seconds, limits = run(work, machine)
    limits["fixed"] += machine.end_s
    return Predicted(
        seconds + machine.end_s,
        {name: limits[name] for name in LIMITS if limits[name] > 0},
        len(plan.shards),
        sum(len(share.elsewhere) for share in dealt),
        sum(phase.read for own in work for phase in own),
        sum(bool(share.files) for share in dealt),
    )


def phases(plan: MergePlan, share: Share, machine: Machine) -> Iterator[Phase]:
    """Yields the phases of a rank, in order: start, measurements for others, its files."""
    yield Phase(fixed=machine.start_s + machine.plan_us * 1e-6 * len(plan.tensors))
    measured = set(share.measured)
    for tensor in plan.tensors if measured else ():
        if tensor.out.name in measured:
            yield _measuring(tensor, plan, machine)._replace(gives=tensor.out.name)
    own = [tensor for tensor in plan.tensors if tensor.out.shard in share.files]
    for tensor, n in _rows(own, share):
        for phase in _making(tensor, plan, machine, tensor.out.name in share.elsewhere):
            yield phase.times(n)
    if share.files:
        yield Phase(fixed=machine.file_s, buffer=0.0)


def _rows(tensors: list[TensorPlan], share: Share) -> Iterator[tuple[TensorPlan, int]]:
    """Yields tensors, and how many of their size follow each other: the experts of a layer.

    Those that others measure stay apart, as each is waited for.
    """
    row: list[TensorPlan] = []
    for tensor in tensors:
        is_alike = row and row[-1].out.n_elements == tensor.out.n_elements and len(row) < LONGEST_ROW
        if row and (not is_alike or tensor.out.name in share.elsewhere):
            yield row[0], len(row)
            row = []
        row.append(tensor)
        if tensor.out.name in share.elsewhere:
            yield tensor, 1
            row = []
    if row:
        yield row[0], len(row)


def _measuring(tensor: TensorPlan, plan: MergePlan, machine: Machine) -> Phase:
    n_passes = nbytes_by_pass(tensor, plan.settings).get(MEASURING, 0) / (tensor.nbytes_in or 1)
    per_pass = tensor.out.n_elements * machine.measure_ns * 1e-9 + _tasks_s(tensor, machine)
    again = max(n_passes - 1, 0) * tensor.nbytes_in / 1e9
    cpu = n_passes * per_pass + tensor.nbytes_in / 1e9 * machine.read_cpu + again * machine.cached_cpu
    return Phase(read=tensor.nbytes_in / 1e9, cpu=cpu)


def _making(tensor: TensorPlan, plan: MergePlan, machine: Machine, is_helped: bool) -> Iterator[Phase]:
    """A tensor that is measured here is read twice: the second time, what the page cache holds by then."""
    write, n = tensor.out.nbytes / 1e9, tensor.out.n_elements
    cpu = n * machine.combine_ns * 1e-9 + write * machine.write_cpu + _tasks_s(tensor, machine)
    read = tensor.nbytes_in / 1e9
    measuring = _measuring(tensor, plan, machine)
    if is_helped or not tensor.is_large or MEASURING not in nbytes_by_pass(tensor, plan.settings):
        cpu += read * machine.read_cpu + (0 if is_helped else n * machine.measure_ns * 1e-9)
        yield Phase(read, cpu, write, needs=tensor.out.name if is_helped else None)
        return
    again = (nbytes_read(tensor, plan.settings, plan.memory.kept_chunks)[0] - tensor.nbytes_in) / 1e9
    yield measuring
    yield Phase(0.0, cpu + again * machine.cached_cpu, write)


def _tasks_s(tensor: TensorPlan, machine: Machine) -> float:
    return tensor.out.n_elements / CHUNK_ELEMENTS * machine.task_us * 1e-6
