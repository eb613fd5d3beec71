"""The processes of a program's Fabric, which run the same method and task pool."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from fusion_slerp.cluster.joining import ranks_of_fabric
from fusion_slerp.cluster.ranks import TIMEOUT_S, Ranks
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sweeps.models import without_bars


def ranks_of(program: Any) -> Ranks:
    """Returns the processes that run a program of FusionBench; outside of one, this process alone.

    If one fails, they end within the `rank_timeout` of the program's method.
    """
    ranks = ranks_of_fabric(getattr(program, "fabric", None))
    if ranks.count > 1:
        ranks.timeout_s = getattr(getattr(program, "method", None), "rank_timeout", TIMEOUT_S)
    return ranks


def leave_saving_to_rank_0(ranks: Ranks, program: Any) -> None:
    """Keeps the other ranks from saving the same model to the same path as rank 0 does."""
    if not ranks.is_first and getattr(program, "merged_model_save_path", None) is not None:
        program.merged_model_save_path = None


def share_of(ranks: Ranks, settings: MergeSettings) -> MergeSettings:
    """Returns the settings of a process that merges at the same time as the others.

    It takes its part of the machine's processors, and rank 0 alone shows progress.
    """
    if ranks.count == 1:
        return settings
    threads = settings.threads or ranks.share_of_threads(settings.n_threads)
    return replace(settings, threads=threads, show_pbar=settings.show_pbar if ranks.is_first else False)


@contextmanager
def quiet(ranks: Ranks) -> Iterator[None]:
    """Keeps ranks other than 0 from logging what rank 0 logs as well, and from showing progress."""
    logger = logging.getLogger("fusion_slerp")
    level = logger.level
    if not ranks.is_first:
        logger.setLevel(logging.CRITICAL)
    try:
        with nullcontext() if ranks.is_first else without_bars():
            yield
    finally:
        logger.setLevel(level)
