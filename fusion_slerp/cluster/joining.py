"""Finds the other processes of a job: those of a Fabric, or those that a launcher has started.

torch is imported only where there are others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fusion_slerp.cluster.messages import Messages
from fusion_slerp.cluster.ranks import ALONE, Ranks
from fusion_slerp.errors import Problem, SettingsError

QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""For torch: it warns of every connection that another process closes when it ends."""

RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables by which torch's processes find each other; torchrun sets them."""

_known: list[tuple[Any, Ranks]] = []
"""The ranks of this process, with their store: whoever asks again gets the same."""


def ranks_of_launcher(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Returns the processes that torchrun has started, of which this is one.

    Raises:
        SettingsError: A launcher has started several processes that cannot find each other.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in environment:
            raise _without_rendezvous(environment).error()
        return ALONE
    missing = [name for name in RENDEZVOUS if name not in environment]
    if missing:
        raise _incomplete(environment, missing).error()
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, count = next(rendezvous("env://"))
    except (RuntimeError, ValueError) as error:
        raise _apart(environment, error).error() from error
    return _ranks(store, rank, count)


def ranks_of_fabric(fabric: Any) -> Ranks:
    """Returns the processes of a Fabric that has been launched; None is a process alone."""
    if getattr(fabric, "world_size", 1) == 1:
        return ALONE
    from torch import distributed

    if not distributed.is_initialized():
        return ALONE
    store = distributed.distributed_c10d._get_default_store()
    return _ranks(store, fabric.global_rank, fabric.world_size)


def _ranks(store: Any, rank: int, count: int) -> Ranks:
    for known, ranks in _known:
        if known is store:
            return ranks
    ranks = Ranks(Messages(store), rank, count)
    _known.append((store, ranks))
    return ranks


def _without_rendezvous(environment: Mapping[str, str]) -> Problem:
    fields = (
        ("found", f"{environment['SLURM_STEP_NUM_TASKS']} processes, without {', '.join(RENDEZVOUS)}"),
        ("needed", "processes that know of each other"),
    )
    fix = (
        "let torchrun start them, once on each machine: srun --ntasks-per-node 1 torchrun "
        "--nnodes $SLURM_NNODES --nproc-per-node 1 --rdzv-backend c10d "
        "--rdzv-endpoint $(scontrol show hostnames | head -1):29500 -m fusion_slerp ..."
    )
    return Problem(SettingsError, "srun has started several merges to the same folder", fields, fix)


def _incomplete(environment: Mapping[str, str], missing: Sequence[str]) -> Problem:
    fields = (
        ("found", f"WORLD_SIZE={environment['WORLD_SIZE']}, without {', '.join(missing)}"),
        ("needed", ", ".join(RENDEZVOUS)),
    )
    fix = "let torchrun start the processes, or remove the variable for one process alone: unset WORLD_SIZE"
    return Problem(
        SettingsError, "the environment names other processes, but not how to find them", fields, fix
    )


def _apart(environment: Mapping[str, str], error: Exception) -> Problem:
    fields = (
        ("rank", environment["RANK"]),
        ("address", f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"),
        ("found", str(error).partition("\n")[0]),
    )
    fix = (
        f"start all {environment['WORLD_SIZE']} processes with the same MASTER_ADDR and MASTER_PORT, or let "
        "torchrun start them; for one process alone: unset WORLD_SIZE"
    )
    return Problem(SettingsError, "the processes do not find each other", fields, fix)
