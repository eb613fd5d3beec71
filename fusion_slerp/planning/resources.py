"""Whether this machine has the memory and open files that a merge needs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.planning.memory import STEPS_UNDER_WAY
from fusion_slerp.planning.plan import MergePlan

MEMINFO = Path("/proc/meminfo")
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Limit and use of a container's memory: in cgroups version 2, then 1."""

RESERVE_FILES = 32
"""Side files, journal, lock, and other files that the process may open meanwhile."""


def check_resources(plan: MergePlan, is_in_memory: bool = False) -> list[Problem]:
    """Returns a problem for each resource that does not suffice for a plan; those that the system does not
    report are assumed to suffice.

    Args:
        plan: The merge.
        is_in_memory: Whether the merged model stays in memory.
    """
    problems = (_memory(plan, is_in_memory), _open_files(plan))
    return [problem for problem in problems if problem is not None]


def _memory(plan: MergePlan, is_in_memory: bool) -> Problem | None:
    free, nbytes = available_memory(), plan.memory.nbytes
    needed = f"{nbytes} bytes for buffers"
    if is_in_memory:
        nbytes += plan.nbytes_written
        needed += f", {plan.nbytes_written} bytes for the merged model"
    if free is None or nbytes <= free:
        return None
    fields = (("needed", needed), ("free", f"{free} bytes"))
    fix = "close other programs"
    if is_in_memory:
        fix += f", or write the merged model to a folder: {setting('out', 'merged')}"
    elif plan.memory.threads > 1 or plan.settings.memory_budget:
        without = " without memory_budget" if plan.settings.memory_budget else ""
        fix += f", or use {setting('threads', 1)}{without}"
    return Problem(SettingsError, "not enough memory", fields, fix)


def available_memory() -> int | None:
    """Returns the bytes that this process can still allocate; None if the system does not report them."""
    limits = [*_of_the_system(), *_of_the_container()]
    return max(0, min(limits)) if limits else None


def _of_the_system() -> Iterable[int]:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return
    yield from (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _of_the_container() -> Iterable[int]:
    for limit, used in GROUPS:
        try:
            nbytes = int(limit.read_text()) - int(used.read_text())
            # The page cache counts as used, but is dropped when memory is needed.
            stat = dict(line.split() for line in (limit.parent / "memory.stat").read_text().splitlines())
            yield nbytes + int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue


def _open_files(plan: MergePlan) -> Problem | None:
    try:
        import resource
    except ImportError:  # Windows, where the limit is far higher
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    inputs = {entry.file for t in plan.tensors for source in t.sources.values() for entry in source.entries}
    needed = _open_now() + len(inputs) + 2 * min(STEPS_UNDER_WAY, len(plan.shards)) + RESERVE_FILES
    if limit == resource.RLIM_INFINITY or needed <= limit:
        return None
    fields = (("needed", f"{needed}, {len(inputs)} of them weight files of the models"), ("limit", limit))
    return Problem(SettingsError, "the limit on open files is too low", fields, f"ulimit -n {needed}")


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0
