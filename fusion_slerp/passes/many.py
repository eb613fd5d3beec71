"""A method at work on many small units at once: what all of them ask for is measured in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Table, Words
from fusion_slerp.passes.gram import Gram
from fusion_slerp.passes.protocols import Made, Measure, NotFiniteError, Steps, drive
from fusion_slerp.passes.weighted_sum import WeightedSum

PLAIN_GRAM = Gram()


def drive_many(
    steps: Sequence[Steps], table: Table, words: Callable[[int], Words]
) -> list[Made | NotFiniteError]:
    """Runs a method on many units whose words are at hand.

    Args:
        steps: The method at work on each.
        table: Their vectors.
        words: Gives the words of one of them; called for those that ask for more than all do.

    Returns:
        What was decided for each; the error where an element is infinite or NaN.
    """
    asked = [_next(each, None) for each in steps]
    if all(measure == PLAIN_GRAM for measure in asked):
        asked = [_next(*each) for each in zip(steps, Gram.of_many(table), strict=True)]
    return [
        _driven(each, found, lambda i=i: words(i))
        for i, (each, found) in enumerate(zip(steps, asked, strict=True))
    ]


def combine_many(
    made: Sequence[Made], table: Table, words: Callable[[int], tuple[Words, np.ndarray]]
) -> list[int]:
    """Writes many small units; returns of each how many elements are infinite or NaN.

    Args:
        made: What was decided for each.
        table: Their vectors, and where each result goes.
        words: Gives the words of one of them, and the array for its result.
    """
    combines = [each.combine for each in made]
    sums = [each.coefficients for each in combines if isinstance(each, WeightedSum)]
    if len(sums) == len(combines):
        return kernels.weighted_sums_of_many(table, np.array(sums)).tolist()
    return [combine.into(*words(i)) for i, combine in enumerate(combines)]


def _next(steps: Steps, value: object) -> Measure | Made:
    try:
        return steps.send(value)
    except StopIteration as end:
        return end.value


def _driven(steps: Steps, found: Measure | Made, words: Callable[[], Words]) -> Made | NotFiniteError:
    if isinstance(found, Made):
        return found
    try:
        return drive(steps, lambda: (words(),), found)
    except NotFiniteError as error:
        return error
