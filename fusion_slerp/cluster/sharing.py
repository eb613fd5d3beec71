"""Which rank makes which weight files, and which tensors it measures for others.

A file is made by one rank, as its digest covers its bytes from first to last. The files are dealt by the
bytes that they take to read and write, the largest first, each to the rank that has least.

If a rank has more than others of its machine even so, as with one large file for several ranks, these measure
some of its tensors: the last ones of the file, which it comes to last. A measured value is a function of the
tensor alone, so it is the same wherever it is measured. Ranks of other machines do not help: they would read
from the disk or the network what the rank itself must read anyway to combine it, and that is what limits a
merge; ranks of one machine share the page cache.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from fusion_slerp.cluster.dealing import dealt
from fusion_slerp.planning.amounts import MEASURING, nbytes_by_pass
from fusion_slerp.planning.plan import MergePlan, TensorPlan

WORTHWHILE = 0.02
"""Of an even share: a tensor moves to another rank for measuring only if it evens out more than that."""


class Share(NamedTuple):
    """What one rank does.

    Attributes:
        files: Indexes of the weight files that it makes.
        measured: Names of tensors that it measures for the ranks that make them.
        elsewhere: Names of tensors of its own files that others measure.
    """

    files: frozenset[int]
    measured: tuple[str, ...] = ()
    elsewhere: frozenset[str] = frozenset()


def shares(plan: MergePlan, hosts: Sequence[str], finished: Collection[int] = ()) -> list[Share]:
    """Returns the share of each rank; the same on every machine.

    Args:
        plan: The merge.
        hosts: The machine of each rank.
        finished: Indexes of files that need not be made.
    """
    count = len(hosts)
    tensors: dict[int, list[TensorPlan]] = {i: [] for i in range(len(plan.shards)) if i not in finished}
    for tensor in plan.tensors:
        if tensor.out.shard in tensors:
            tensors[tensor.out.shard].append(tensor)
    costs = {i: sum(_cost(tensor, plan) for tensor in own) for i, own in tensors.items()}
    makers = dict(zip(costs, dealt(list(costs.values()), count), strict=True))
    files = [[i for i, maker in makers.items() if maker == rank] for rank in range(count)]
    loads = [sum(costs[i] for i in own) for own in files]
    helpers = _helpers(plan, hosts, [[t for i in own for t in tensors[i]] for own in files], loads)
    measured: list[list[str]] = [[] for _ in range(count)]
    for name, rank in helpers.items():
        measured[rank].append(name)
    return [
        Share(
            frozenset(own),
            tuple(measured[rank]),
            frozenset(t.out.name for i in own for t in tensors[i] if t.out.name in helpers),
        )
        for rank, own in enumerate(files)
    ]


def _helpers(
    plan: MergePlan, hosts: Sequence[str], tensors: Sequence[Sequence[TensorPlan]], loads: list[int]
) -> dict[str, int]:
    """Tensors that another rank measures than the one that makes them, by name, in the order of the files."""
    helpers: dict[str, int] = {}
    for host in dict.fromkeys(hosts):
        neighbours = [rank for rank, each in enumerate(hosts) if each == host]
        if len(neighbours) > 1:
            helpers |= _helpers_among(plan, neighbours, tensors, loads)
    order = [slot.name for slot in plan.slots if slot.name in helpers]
    return {name: helpers[name] for name in order}


def _helpers_among(
    plan: MergePlan, ranks: Sequence[int], tensors: Sequence[Sequence[TensorPlan]], loads: list[int]
) -> dict[str, int]:
    """Those of one machine's ranks, whose loads are evened out."""
    left = {rank: [t for t in tensors[rank] if _measuring(t, plan)] for rank in ranks}
    least = WORTHWHILE * sum(loads[rank] for rank in ranks) / len(ranks)
    helpers: dict[str, int] = {}
    while with_some := [rank for rank in ranks if left[rank]]:
        busy = max(with_some, key=lambda rank: (loads[rank], -rank))
        idle = min(ranks, key=lambda rank: (loads[rank], rank))
        tensor = left[busy].pop()
        cost = _measuring(tensor, plan)
        if loads[busy] - loads[idle] <= cost + least:
            left[busy].clear()  # what remains of it is evened out
            continue
        loads[busy] -= cost
        loads[idle] += cost
        helpers[tensor.out.name] = idle
    return helpers


def _measuring(tensor: TensorPlan, plan: MergePlan) -> int:
    return nbytes_by_pass(tensor, plan.settings).get(MEASURING, 0)


def _cost(tensor: TensorPlan, plan: MergePlan) -> int:
    return tensor.nbytes_in + sum(nbytes_by_pass(tensor, plan.settings).values())
