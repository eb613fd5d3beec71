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
    "Made": "fusion_slerp.passes.protocols",
    "WeightedSum": "fusion_slerp.passes.weighted_sum",
}

__all__ = ["Chords", "Gram", "LargestMagnitude", "Made", "WeightedSum"]

if TYPE_CHECKING:
    from fusion_slerp.passes.chords import Chords
    from fusion_slerp.passes.gram import Gram
    from fusion_slerp.passes.magnitude import LargestMagnitude
    from fusion_slerp.passes.protocols import Made
    from fusion_slerp.passes.weighted_sum import WeightedSum


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fusion_slerp.passes' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
