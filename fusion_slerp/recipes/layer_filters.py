"""Filters that contain the number of a layer: mergekit matches a model's names, we match the merged model's.

The two differ where slices renumber layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field
from typing import Any

from fusion_slerp.recipes.mergekit_body import Body
from fusion_slerp.recipes.mergekit_methods import Parameter
from fusion_slerp.recipes.recipe import Findings
from fusion_slerp.recipes.values import entries_of

_NUMBER = re.compile(r"(?:^|\.)\d+(?:\.|$)")
"""A part of a filter that may be the number of a layer."""


def check_layers(
    body: Body,
    by_part: Sequence[Mapping[str, Any]],
    everywhere: Any,
    parameter: Parameter,
    each: Field[Any],
    findings: Findings,
) -> None:
    """Refuses a model's filters that select other layers in mergekit, which uses the names in each model.

    Args:
        body: The recipe.
        by_part: The values of each slice's models.
        everywhere: The value of the whole recipe.
        parameter: The parameter.
        each: Our option.
        findings: Gets the faults.
    """
    first = 0
    for part, values in zip(body.parts, by_part, strict=True):
        for source in part.sources:
            if source.layers and source.layers[0] != first and source.model in values:
                key = source.level.key_of(parameter.name)
                check_filters([values[source.model], everywhere], key, each, findings)
        start, end = part.sources[0].layers or (0, 0)
        first += end - start


def check_filters(levels: Sequence[Any], key: str, each: Field[Any], findings: Findings) -> None:
    """Refuses values with a filter that may contain a layer's number, where layers are renumbered."""
    for pattern in _patterns(levels, each):
        if _NUMBER.search(pattern):
            option = key.rpartition(".")[2]
            fix = f"leave the layer's number out of the filter, or give the slice a {option} of its own"
            needed = "filters without numbers: mergekit matches each model's names, here the merged model's"
            headline = f"{key}: a filter that selects other layers in mergekit"
            findings.fault(headline, fix, found=pattern, needed=needed)
            return


def _patterns(levels: Sequence[Any], each: Field[Any]) -> Iterator[str]:
    for level in levels:
        for entry in () if level is None else entries_of(level, each):
            if entry.pattern is not None:
                yield entry.pattern
