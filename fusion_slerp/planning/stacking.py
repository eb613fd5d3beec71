"""A parent as if it had the layers of some slices alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from fusion_slerp.errors import MismatchError, Problem
from fusion_slerp.planning.matching import EMBEDDINGS
from fusion_slerp.settings.schedule import Schedule
from fusion_slerp.settings.slices import EXAMPLE, LayerPlace, Range, Slice, places
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.tensor_names import depths, layer_of, renamed

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""What configs call the number of layers."""


def take_slices(
    parent: Checkpoint, slices: Sequence[Slice], which: Literal["a", "b"]
) -> tuple[Checkpoint, list[Problem]]:
    """Returns a parent as if it had the layers of the slices alone, and what is wrong with them."""
    ranges = [getattr(part, which) for part in slices]
    stacks = {layer[0] for name in parent.tensors if (layer := layer_of(name))}
    n_layers = 1 + max((layer[1] for name in parent.tensors if (layer := layer_of(name))), default=-1)
    if len(stacks) != 1:
        return parent, [_problem(parent, f"{len(stacks)} stacks of layers", "one stack")]
    if any(end > n_layers for _, end in ranges):
        found = f"{which}: {list(max(ranges, key=lambda each: each[1]))}"
        return parent, [_problem(parent, found, f"layers below {n_layers}, as many as the model has")]
    tensors = dict(_renumbered(parent.tensors, ranges))
    config = {**parent.config, **config_changes(parent.config, ranges)}
    return replace(parent, tensors=tensors, config=config), []


def _renumbered(
    tensors: Mapping[str, TensorEntry], ranges: Sequence[Range]
) -> Iterator[tuple[str, TensorEntry]]:
    """Every tensor under the name or names that it has in the child."""
    order = [layer for start, end in ranges for layer in range(start, end)]
    new: dict[int, list[int]] = {}
    for i, layer in enumerate(order):
        new.setdefault(layer, []).append(i)
    for name, entry in tensors.items():
        layer = layer_of(name)
        if layer is None:
            yield name, entry
            continue
        for i in new.get(layer[1], []):
            yield renamed(name, i), entry


def config_changes(config: Mapping[str, Any], ranges: Sequence[Range]) -> dict[str, Any]:
    """Returns what the config of a parent says otherwise if it has the layers of some ranges alone."""
    order = [layer for start, end in ranges for layer in range(start, end)]
    changes: dict[str, Any] = {key: len(order) for key in LAYER_COUNTS if key in config}
    types = config.get("layer_types")
    if isinstance(types, list) and order and max(order) < len(types):
        changes["layer_types"] = [types[layer] for layer in order]
    return changes


def _problem(parent: Checkpoint, found: str, needed: str) -> Problem:
    fields = (("model", parent.source), ("found", found), ("needed", needed))
    return Problem(MismatchError, "the slices do not fit the model", fields, f"set slices: {EXAMPLE}")


def t_by_name(
    names: Iterable[str], schedule: Schedule, slices: Sequence[Slice] | None
) -> dict[str, float | None]:
    """Returns t of every tensor of the child; None where nothing says it.

    A gradient runs over the layers of the model, or of each slice. Outside the layers its first value
    counts; embeddings belong to the first slice, and what comes behind the layers to the last.
    """
    if slices is None:
        return {name: schedule.t(name, depth) for name, depth in depths(names).items()}
    of_layer = places(slices)
    outside = LayerPlace(slices[0], 0.0), LayerPlace(slices[-1], 0.0)
    found = {}
    for name in names:
        layer = layer_of(name)
        place = outside[not _is_before(name)] if layer is None else of_layer[layer[1]]
        own = place.slice.schedule.t(name, place.depth) if place.slice.schedule else None
        found[name] = schedule.t(name, place.depth) if own is None else own
    return found


def _is_before(name: str) -> bool:
    """Whether a tensor outside the layers comes before them."""
    return any(part in (*EMBEDDINGS, "wpe", "embed_positions") for part in name.split("."))
