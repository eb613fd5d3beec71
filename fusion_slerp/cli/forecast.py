"""What a merge will need: bytes, memory, disk space and, as far as it can be predicted, time."""

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
"""Bytes per second, read and written, of a plain solid-state disk: assumed until a merge was timed."""

START_S = 0.4
"""Seconds that every merge takes for Python and for compiling kernels (measured on two cores of an EPYC)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A plan and what it will need.

    Attributes:
        plan: What happens to every tensor.
        out: The merged model's folder; None if it was not named.
        nbytes_written: Bytes of all files whose size is known.
        free_nbytes: Free bytes on the disk of `out`; None without `out`.
        rate: Bytes per second that `seconds` is based on.
        is_measured: Whether the rate was measured on this machine.
    """

    plan: MergePlan
    out: Path | None
    nbytes_written: int
    free_nbytes: int | None
    rate: float
    is_measured: bool

    @property
    def nbytes_read(self) -> tuple[int, int]:
        """Bytes of weights that are read: the minimum, and the maximum that the values require as a rule."""
        least, most = self.plan.nbytes_read, self.plan.nbytes_read_most
        return (least, least) if self.plan.settings.how.is_in_span else (least, most)

    @property
    def seconds(self) -> float:
        """The approximate duration."""
        return START_S + (self.nbytes_read[1] + self.nbytes_written) / self.rate

    @property
    def time_text(self) -> str:
        """The duration in words, with the rate that it is based on."""
        rate = f"{nbytes_text(self.rate)}/s read and written"
        ground = (
            f" at {rate}, as in the last large merge on this machine; a slower disk takes longer"
            if self.is_measured
            else f", assuming {rate} (no earlier merge is large enough to measure by)"
        )
        return seconds_text(self.seconds) + ground


def make(request: Request, out: str | None) -> Forecast:
    """Plans a merge; with `out`, that folder is checked as well.

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
    """Returns what a plan will need."""
    rate = recent.measured_rate()
    free = None if out is None else free_space(out)
    return Forecast(plan, out, nbytes_written, free, rate or GUESSED_RATE, rate is not None)


def free_space(folder: Path) -> int:
    """Returns the free bytes on the disk where a folder is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return shutil.disk_usage(existing).free


def as_fields(forecast: Forecast, request: Request) -> dict[str, Any]:
    """Returns the forecast as fields for JSON."""
    plan = forecast.plan
    return {
        **request.named,
        "out": None if forecast.out is None else str(forecast.out),
        "tensors": [_tensor_fields(tensor, plan) for tensor in plan.tensors],
        "files": {shard.file_name: shard.nbytes for shard in plan.shards},
        "tokenizer": str(plan.tokenizer.folder),
        "bytes_read": plan.nbytes_read,
        "bytes_read_most": plan.nbytes_read_most,
        "bytes_written": forecast.nbytes_written,
        "peak_memory_bytes": plan.peak_nbytes,
        "free_bytes": forecast.free_nbytes,
        "seconds": round(forecast.seconds, 1),
        "bytes_per_s": round(forecast.rate),
        "rate_is_measured": forecast.is_measured,
        "warnings": list(plan.warnings),
        "notes": [*request.notes, *plan.notes],
        "command": request.command(None if forecast.out is None else str(forecast.out)),
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
