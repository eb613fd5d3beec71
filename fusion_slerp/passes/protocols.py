"""What a pass over the sources is, what writes the result, and how a method strings them together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from fusion_slerp.kernels import Words

if TYPE_CHECKING:
    from fusion_slerp.passes.gram import GramMatrix


class NotFiniteError(ArithmeticError):
    """An element of a source is infinite or NaN, so nothing can be measured."""


class Accumulator(Protocol):
    """What some chunks came to."""

    def join(self, other: Any) -> Any:
        """Returns what both hold together; they may be altered.

        Exact: sums keep their rounding errors. So parts are folded as they come, from any thread and in any
        order, and the value has the same bits.
        """
        ...


class Measure(Protocol):
    """One pass over the sources of a unit: an immutable value.

    Attributes:
        turn: Units that ask for different measures at once are served in this order, so that those who come
            later to a measure find others who waited for it.
    """

    turn: ClassVar[int]

    def part(self, words: Words) -> Accumulator:
        """Measures one chunk."""
        ...

    def value(self, total: Any) -> Any:
        """Returns what all chunks together come to, for the method.

        Raises:
            NotFiniteError: An element is infinite or NaN, and the measure cannot do without.
        """
        ...


class Combine(Protocol):
    """Writes the result of a unit, chunk by chunk."""

    def into(self, words: Words, out: np.ndarray) -> int:
        """Writes one chunk, each element rounded once; returns how many are infinite or NaN."""
        ...


class Made(NamedTuple):
    """What a method decided.

    Attributes:
        combine: Writes the result.
        rule: How it is made, for the report: `"slerp"`, `"lerp: nearly parallel"`, `"linear"`.
        gram: The Gram matrix of the sources; None where it was not measured.
        angle_deg: The angle between the first two sources in degrees, [0, 180]; None where there is none.
        after: Returns the same with what is known only when everything is written; None if nothing is.
    """

    combine: Combine
    rule: str
    gram: GramMatrix | None = None
    angle_deg: float | None = None
    after: Callable[[], Made] | None = None


Steps = Generator[Measure, Any, Made]
"""A method at work on one unit: yields measures, is sent their values, and returns what it decided."""


def drive(steps: Steps, chunks: Callable[[], Iterable[Words]], first: Measure | None = None) -> Made:
    """Runs a method on words that are at hand, one chunk after the other.

    Args:
        steps: The method at work.
        chunks: Gives the words of every chunk, from the first, at each call.
        first: What it asks for, if it has begun already.

    Raises:
        NotFiniteError: An element is infinite or NaN.
    """
    try:
        measure = first or next(steps)
        while True:
            parts = (measure.part(words) for words in chunks())
            measure = steps.send(measure.value(reduce(lambda one, other: one.join(other), parts)))
    except StopIteration as end:
        return end.value
