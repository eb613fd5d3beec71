"""How often the trials of this folder are made, and what they merge.

`make safety` makes them as often as docs/safety.md says. The default tests make a few of those that are soon
over, so that a broken script shows; the others are marked `trial`.
"""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import numpy as np

from tests.models import contents, write_checkpoint

WANTED = os.environ.get("FUSION_SLERP_TRIALS")
"""`full`; or `all`, with more of those of several processes, which take ten minutes more."""

N_TENSORS = 24
SHARD_SIZE = 3_200_000
"""Bytes: a file for each tensor."""


def trials(full: int, few: int, most: int | None = None) -> int:
    """How many are to be made; `most` of them where all are wanted."""
    if WANTED == "all" and most is not None:
        return most
    return full if WANTED in ("full", "all") else few


class Moments:
    """Draws moments of work; how long the work takes is learnt from work that came to its end.

    Otherwise most moments would lie after the end on a fast machine, and at the beginning on a slow one.

    Args:
        rng: Draws them.
        usual_s: How long the work takes; None if that is not known.
    """

    MOST_LATE = 500

    def __init__(self, rng: random.Random, usual_s: float | None = None) -> None:
        self._rng, self._usual_s, self._n_late = rng, usual_s, 0

    def draw(self) -> float:
        """Returns seconds since the beginning of the work; infinity to learn how long it takes."""
        return math.inf if self._usual_s is None else self._rng.uniform(0, self._usual_s)

    def was_late(self, took_s: float | None = None) -> None:
        """The work had ended by the moment; it took so long, if that is known."""
        if took_s is not None:
            self._usual_s = took_s if self._usual_s is None else (self._usual_s + took_s) / 2
        self._n_late += 1
        assert self._n_late < self.MOST_LATE, "hardly a moment lies in the work"


def many_shards(folder: Path) -> tuple[Path, Path]:
    """Two parents whose child has 24 weight files of 3 MB."""
    made = []
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        tensors = {
            f"model.layers.{i}.mlp.up_proj.weight": rng.standard_normal((1024, 768), np.float32) * 0.02
            for i in range(N_TENSORS)
        }
        config = {"num_hidden_layers": N_TENSORS}
        made.append(write_checkpoint(folder / name, tensors=tensors, config=config, n_shards=3))
    return made[0], made[1]


def state_of(target: Path) -> dict[str, bytes] | None:
    """All files of a target; None if there is none."""
    return contents(target) if target.exists() else None
