"""The command in each of several processes that torchrun or srun has started."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fusion_slerp.cli.output import Output, exit_on_error

if TYPE_CHECKING:
    from fusion_slerp.cluster.ranks import Ranks

T = TypeVar("T")

LAUNCHERS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables that a launcher sets: without them, nothing of what follows is imported."""


def joined(output: Output) -> tuple[Ranks | None, Output]:
    """Returns the processes that a launcher has started, None if this one is alone, and where it prints.

    It ends the command if they cannot find each other.

    Args:
        output: Where a process that is alone would print.
    """
    if not any(name in os.environ for name in LAUNCHERS):
        return None, output
    from fusion_slerp.cluster.joining import ranks_of_launcher

    with exit_on_error(output):
        found = ranks_of_launcher()
    ranks = found if found.count > 1 else None
    return ranks, output_of(ranks, output)


def output_of(ranks: Ranks | None, output: Output) -> Output:
    """Returns where a process prints: only rank 0 prints more than errors of its own."""
    return output if ranks is None or ranks.is_first else Output(quiet=True, rank=ranks.rank)


def share(ranks: Ranks | None, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of a merge for one of several processes: it takes its part of the processors."""
    return options if ranks is None else ranks.with_threads(options)


def on_all(ranks: Ranks | None, work: Callable[[], T]) -> T:
    """Runs work in every process, and returns its result; if it fails in one, all fail."""
    return work() if ranks is None else ranks.on_all(work)


def take_gpu(ranks: Ranks | None) -> None:
    """Has torch choose another GPU in each process of a machine, if it has some: `cuda` is then that one."""
    if ranks is None:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
