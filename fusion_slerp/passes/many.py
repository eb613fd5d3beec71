"""Runs a method on many small units at once: a measure that all of them request is taken in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Table, Words
from fusion_slerp.passes.gram import Gram
from fusion_slerp.passes.protocols import Made, Measure, NotFiniteError, Steps, drive, write
from fusion_slerp.passes.weighted_sum import WeightedSum


class Decided(NamedTuple):
    """Weighted sums of many units.

    Attributes:
        coefficients: float64 of shape (units, sources).
        rules: Of each unit.
        is_decided: Of each unit; its coefficients and rule count only if this is true.
    """

    coefficients: np.ndarray
    rules: Sequence[str]
    is_decided: np.ndarray


class AtOnce(NamedTuple):
    """A method in the span of its sources, for many units by one call.

    Attributes:
        is_relative: Whether its vectors are the differences from the last source.
        decide: Takes the products of many units, float64 of shape (units, products): of each unit the upper
            triangle of its Gram matrix. Units that need another measure are left undecided.
    """

    is_relative: bool
    decide: Callable[[np.ndarray], Decided]


UNSCALED = (Gram(), Gram(is_relative=True))


def drive_many(
    steps: Sequence[Steps], table: Table, words: Callable[[int], Words]
) -> list[Made | NotFiniteError]:
    """Runs a method on many units whose words are in memory.

    Args:
        steps: The method's generator for each.
        table: Their vectors.
        words: Returns the words of one of them; called for those that request further measures.

    Returns:
        The decision for each; the error if an element is infinite or NaN.
    """
    asked = [_next(each, None) for each in steps]
    for gram in UNSCALED:
        if all(measure == gram for measure in asked):
            asked = [_next(*each) for each in zip(steps, gram.of_many(table), strict=True)]
    return [
        _driven(each, first, lambda i=i: words(i))
        for i, (each, first) in enumerate(zip(steps, asked, strict=True))
    ]


def combine_many(
    made: Sequence[Made], table: Table, words: Callable[[int], tuple[Words, np.ndarray]]
) -> list[int]:
    """Writes many small units; returns for each how many elements are infinite or NaN.

    Args:
        made: The decision for each.
        table: Their vectors, and the array for each result.
        words: Returns the words of one of them, and the array for its result.
    """
    combines = [each.combine for each in made]
    sums = [each.coefficients for each in combines if isinstance(each, WeightedSum)]
    if len(sums) == len(combines):
        return kernels.weighted_sums_of_many(table, np.array(sums)).tolist()
    return [write(combine, *words(i)) for i, combine in enumerate(combines)]


def _next(steps: Steps, value: object) -> Measure | Made:
    try:
        return steps.send(value)
    except StopIteration as end:
        return end.value


def _driven(steps: Steps, first: Measure | Made, words: Callable[[], Words]) -> Made | NotFiniteError:
    if isinstance(first, Made):
        return first
    try:
        return drive(steps, lambda: (words(),), first)
    except NotFiniteError as error:
        return error
