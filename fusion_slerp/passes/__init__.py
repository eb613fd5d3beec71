"""Measures, each one pass over the sources, and combines, which write the result.

A method yields measures and ends with a combine; its driver decides where the words come from, how they are
divided into chunks, and how many threads are used. See `protocols`.

Names resolve on first use: the options that methods declare are available without numpy and the compiler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Chords": "fusion_slerp.passes.chords",
    "Gram": "fusion_slerp.passes.gram",
    "LargestMagnitude": "fusion_slerp.passes.magnitude",
    "ByMagnitude": "fusion_slerp.passes.by_magnitude",
    "BySpread": "fusion_slerp.passes.selections",
    "Clipped": "fusion_slerp.passes.clipping",
    "NOTHING": "fusion_slerp.passes.ranks",
    "Made": "fusion_slerp.passes.protocols",
    "SelectedMagnitudes": "fusion_slerp.passes.selections",
    "SelectedSquares": "fusion_slerp.passes.selections",
    "SelectedSum": "fusion_slerp.passes.selections",
    "SharedCounts": "fusion_slerp.passes.selections",
    "above": "fusion_slerp.passes.by_magnitude",
    "cut_of_spread": "fusion_slerp.passes.ranks",
    "cuts": "fusion_slerp.passes.ranks",
    "Draw": "fusion_slerp.passes.chances",
    "key_of": "fusion_slerp.passes.chances",
    "Drawn": "fusion_slerp.passes.draws",
    "Kept": "fusion_slerp.passes.kept_masks",
    "WeightedSum": "fusion_slerp.passes.weighted_sum",
}

__all__ = [
    "NOTHING",
    "ByMagnitude",
    "BySpread",
    "Chords",
    "Clipped",
    "Draw",
    "Drawn",
    "Gram",
    "Kept",
    "LargestMagnitude",
    "Made",
    "SelectedMagnitudes",
    "SelectedSquares",
    "SelectedSum",
    "SharedCounts",
    "WeightedSum",
    "above",
    "cut_of_spread",
    "cuts",
    "key_of",
]

if TYPE_CHECKING:
    from fusion_slerp.passes.by_magnitude import ByMagnitude, above
    from fusion_slerp.passes.chances import Draw, key_of
    from fusion_slerp.passes.chords import Chords
    from fusion_slerp.passes.clipping import Clipped
    from fusion_slerp.passes.draws import Drawn
    from fusion_slerp.passes.gram import Gram
    from fusion_slerp.passes.kept_masks import Kept
    from fusion_slerp.passes.magnitude import LargestMagnitude
    from fusion_slerp.passes.protocols import Made
    from fusion_slerp.passes.ranks import NOTHING, cut_of_spread, cuts
    from fusion_slerp.passes.selections import (
        BySpread,
        SelectedMagnitudes,
        SelectedSquares,
        SelectedSum,
        SharedCounts,
    )
    from fusion_slerp.passes.weighted_sum import WeightedSum


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fusion_slerp.passes' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
