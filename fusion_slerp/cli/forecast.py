"""What a merge will take: bytes, memory, room on the disk, and time as far as that can be told."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli import recent
from fusion_slerp.cli.amounts import nbytes_text, seconds_text
from fusion_slerp.cli.request import Request

if TYPE_CHECKING:
    from fusion_slerp.planning.plan import MergePlan, TensorPlan

GUESSED_RATE = 1e9
"""Bytes per second, read and written, where no merge was timed: what a plain solid-state disk gives."""

START_S = 0.4
"""Seconds of every merge: Python, the compiler of the kernels (measured on two cores of an EPYC)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A plan and what it will take.

    Attributes:
        plan: What happens to every tensor.
        out: The merged model's folder; None if it was not named.
        nbytes_written: Of all files, as far as they are known.
        free_nbytes: Free on the disk of `out`; None without.
        rate: Bytes per second on which `seconds` rests.
        is_measured: Whether a merge on this machine had that rate.
    """

    plan: MergePlan
    out: Path | None
    nbytes_written: int
    free_nbytes: int | None
    rate: float
    is_measured: bool

    @property
    def seconds(self) -> float:
        """How long it will take, about."""
        return START_S + (self.plan.nbytes_read + self.nbytes_written) / self.rate

    @property
    def time_text(self) -> str:
        """That in words, with what it rests on."""
        rate = f"{nbytes_text(self.rate)}/s read and written"
        ground = (
            f"at {rate}, as in the last large merge on this machine; a slower disk takes longer"
            if self.is_measured
            else f"assuming {rate} (no earlier merge to calibrate)"
        )
        return f"{seconds_text(self.seconds)} {ground}"


def make(request: Request, out: str | None) -> Forecast:
    """Plans what is asked for; with `out`, the place is checked as well.

    Raises:
        FusionSlerpError: As `merge`, before it reads a weight.
    """
    from fusion_slerp.api import plan_merge, prepare_merge

    if out is None:
        plan = plan_merge(*request.models, base=request.base, **request.options)
        return of_plan(plan, None, plan.nbytes_written)
    prepared = prepare_merge(request.models, out, base=request.base, **request.options)
    return of_plan(prepared.plan, prepared.target, prepared.nbytes_written)


def of_plan(plan: MergePlan, out: Path | None, nbytes_written: int) -> Forecast:
    """Returns what a plan will take."""
    rate = recent.measured_rate()
    free = None if out is None else free_room(out)
    return Forecast(plan, out, nbytes_written, free, rate or GUESSED_RATE, rate is not None)


def free_room(folder: Path) -> int:
    """Returns the bytes that are free where a folder is, or will be."""
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return shutil.disk_usage(there).free


def as_fields(found: Forecast, request: Request) -> dict[str, Any]:
    """The forecast for machines."""
    plan = found.plan
    return {
        **request.named,
        "out": None if found.out is None else str(found.out),
        "tensors": [_tensor_fields(tensor, plan) for tensor in plan.tensors],
        "files": {shard.file_name: shard.nbytes for shard in plan.shards},
        "tokenizer": str(plan.tokenizer.folder),
        "bytes_read": plan.nbytes_read,
        "bytes_written": found.nbytes_written,
        "peak_memory_bytes": plan.peak_nbytes,
        "free_bytes": found.free_nbytes,
        "seconds": round(found.seconds, 1),
        "bytes_per_s": round(found.rate),
        "rate_is_measured": found.is_measured,
        "warnings": [*request.notes, *plan.warnings],
        "command": request.command(None if found.out is None else str(found.out)),
    }


def _tensor_fields(tensor: TensorPlan, plan: MergePlan) -> dict[str, Any]:
    return {
        "name": tensor.out.name,
        "action": str(tensor.work),
        **tensor.values,
        "dtype": tensor.out.dtype.name,
        "shape": list(tensor.out.shape),
        "bytes": tensor.out.nbytes,
        "file": plan.shards[tensor.out.shard].file_name,
        "rows": None if tensor.rows is None else str(tensor.rows.counts),
    }
