"""The interfaces of measures and combines, and how a method uses them in sequence."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from fusion_slerp.kernels import Words

if TYPE_CHECKING:
    from fusion_slerp.passes.gram import GramMatrix


class NotFiniteError(ArithmeticError):
    """An element of a source is infinite or NaN, so nothing can be measured."""


class Accumulator(Protocol):
    """The measurement of one or more chunks."""

    def join(self, other: Any) -> Any:
        """Returns the measurement of the chunks of both, which may be modified.

        It is exact: sums keep their rounding errors. So parts can be joined as they arrive, from any thread
        and in any order, and the value has the same bits.
        """
        ...


class Measure(Protocol):
    """One pass over the sources of a unit: an immutable value.

    Attributes:
        turn: If units request different measures at the same time, they are taken in this order, so that
            a measure is taken together for as many units as possible.
    """

    turn: ClassVar[int]

    def part(self, words: Words, start: int) -> Accumulator:
        """Measures one chunk, which begins at element `start` of the unit."""
        ...

    def value(self, total: Any) -> Any:
        """Returns the value of all chunks' measurements, for the method.

        Raises:
            NotFiniteError: An element is infinite or NaN, and the measure needs finite values.
        """
        ...


class Counted(NamedTuple):
    """What a combine counted.

    Attributes:
        counts: In a chunk, int64.
        before: In all earlier chunks, added up. What these did not count because it no longer mattered is
            missing from both.
    """

    counts: np.ndarray
    before: np.ndarray


Counter = Callable[[Words, np.ndarray | None], np.ndarray]
"""Counts in one chunk, int64. Takes its words, and the counts of all earlier chunks; None if these are not
known yet.
"""


class Combine(Protocol):
    """Writes the result of a unit, chunk by chunk."""

    def into(self, words: Words, out: np.ndarray, start: int = 0, counted: Counted | None = None) -> int:
        """Writes one chunk, each element rounded once; returns how many are infinite or NaN.

        Args:
            words: The words of every source.
            out: As many words; overwritten.
            start: The index of the first element in the merged model's tensor.
            counted: The counts of the chunk and of all before it, if a `CountingCombine` needs them.
        """
        ...


@runtime_checkable
class CountingCombine(Combine, Protocol):
    """A combine that needs to know something about the elements of all earlier chunks."""

    def counter(self) -> Counter | None:
        """Returns what counts in each chunk; None if nothing needs to be counted in this unit."""
        ...


class Made(NamedTuple):
    """A method's decision for a unit.

    Attributes:
        combine: Writes the result.
        rule: The rule, for the report: `"slerp"`, `"lerp: nearly parallel"`, `"linear"`.
        gram: The Gram matrix of the sources; None if it was not measured.
        angle_deg: The angle between the first two sources in degrees, [0, 180]; None if it is undefined.
        after: Returns the decision completed with what is known only after writing; None if it is complete.
    """

    combine: Combine
    rule: str
    gram: GramMatrix | None = None
    angle_deg: float | None = None
    after: Callable[[], Made] | None = None


Steps = Generator[Measure, Any, Made]
"""A method's generator for one unit: it yields measures, is sent their values, and returns its decision."""


def drive(steps: Steps, chunks: Callable[[], Iterable[Words]], first: Measure | None = None) -> Made:
    """Runs a method on words in memory, chunk by chunk.

    Args:
        steps: The method's generator.
        chunks: Returns the words of every chunk, from the first, at each call.
        first: The measure that it requests, if it has already been started.

    Raises:
        NotFiniteError: An element is infinite or NaN.
    """
    try:
        measure = first or next(steps)
        while True:
            parts = (measure.part(words, start) for words, start in with_starts(chunks()))
            measure = steps.send(measure.value(reduce(lambda one, other: one.join(other), parts)))
    except StopIteration as end:
        return end.value


def write(combine: Combine, words: Words, out: np.ndarray) -> int:
    """Writes a unit whose words are in memory; returns how many elements are infinite or NaN."""
    counter = combine.counter() if isinstance(combine, CountingCombine) else None
    counts = counter(words, None) if counter else None
    return combine.into(words, out, 0, None if counts is None else Counted(counts, np.zeros_like(counts)))


def with_starts(chunks: Iterable[Words]) -> Iterator[tuple[Words, int]]:
    """Yields each chunk with the index of its first element."""
    start = 0
    for words in chunks:
        yield words, start
        start += words[0].size
