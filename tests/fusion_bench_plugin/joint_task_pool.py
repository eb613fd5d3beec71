"""A task pool whose evaluation needs all processes of the program at the same time."""

from __future__ import annotations

from typing import Any

import torch
from fusion_bench.taskpool.base_pool import BaseTaskPool


class JointTaskPool(BaseTaskPool):
    """Says how large the head is, and how many processes look at a model of that size at the same time."""

    _program: Any = None

    def evaluate(self, model: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the scores."""
        norm = model.lm_head.weight.float().norm()
        norms = self._program.fabric.all_gather(norm)
        return {"head": {"norm": norm.item(), "processes": int(torch.sum(norms == norm))}}
