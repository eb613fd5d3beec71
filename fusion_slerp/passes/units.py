"""A matrix whose rows, or columns, are units of their own: the same method at work on each.

mergekit's NuSLERP offers both with `nuslerp_flatten: false`: rows by default, columns with
`nuslerp_row_wise: true` (the flag names the transposed axis).

A row needs nothing but itself, so a row is measured when it is written. Columns run through all rows: each
pass measures every column that still asks for something.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import isqrt
from typing import Any

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Words
from fusion_slerp.passes.blocks import blocks_of
from fusion_slerp.passes.exact_sums import ExactSums, total_of
from fusion_slerp.passes.gram import GramMatrix, gram_matrix
from fusion_slerp.passes.protocols import Made, Measure, Steps, drive
from fusion_slerp.passes.weighted_sum import WeightedSum


@dataclass(slots=True)
class _Tally:
    """How many units were made by each rule, and their Gram matrices added up; from any thread, in any
    order.
    """

    rules: Counter[str] = field(default_factory=Counter)
    products: ExactSums | None = None
    _adding: threading.Lock = field(default_factory=threading.Lock)

    def add(self, units: Sequence[Made]) -> None:
        """Takes the units of a chunk."""
        measured = [unit.gram for unit in units if unit.gram is not None]
        part = ExactSums(_scaled_sums(measured)) if measured else None
        with self._adding:
            self.rules.update(unit.rule for unit in units)
            if part is not None:
                self.products = part if self.products is None else self.products.join(part)

    def summary(self, made: Made, unit: str) -> Made:
        """The most frequent rule (of equally frequent ones the first by name), and norms and angle of all."""
        rule = min(self.rules, key=lambda rule: (-self.rules[rule], rule))
        gram = None if self.products is None else _in_range(self.products.totals())
        angle = None if gram is None else gram.angle_deg
        return made._replace(rule=f"{rule}, by {unit}", gram=gram, angle_deg=angle, after=None)


SMALL = 2.0**-500
"""Squares of smaller norms begin to lose digits."""

SCALES = (0, -550, 550)
"""Powers of two by which vectors are multiplied before their products are added up: float64 may need the
others.
"""


def _scaled_sums(grams: Sequence[GramMatrix]) -> np.ndarray:
    """The sum of all matrices at every scale: float64 of shape (scales, products)."""
    products = np.array([gram.products for gram in grams])
    powers = np.array([gram.product_exponents for gram in grams])
    with np.errstate(over="ignore", under="ignore"):
        scaled = [np.ldexp(products, powers + 2 * scale) for scale in SCALES]
    return np.array([[total_of(column) for column in each.T.tolist()] for each in scaled])


def _in_range(sums: np.ndarray) -> GramMatrix:
    """The first scale at which nothing is infinite and no vector vanishes; else the first that is finite."""
    found = [
        gram_matrix(each.tolist(), (-scale,) * isqrt(2 * len(each)) if scale else ())
        for scale, each in zip(SCALES, sums, strict=True)
    ]
    finite = [gram for gram in found if gram.is_finite]
    return next((gram for gram in finite if min(gram.measured_norms) > SMALL), (finite or found)[0])


def by_row(method: Callable[[], Steps], width: int) -> Steps:
    """The method at work on every row; `method` starts it again for each."""
    yield from ()
    tally = _Tally()
    made = Made(_Rows(method, width, tally), "by row")
    return made._replace(after=lambda: tally.summary(made, "row"))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Measures and writes row by row."""

    method: Callable[[], Steps]
    width: int
    tally: _Tally

    def into(self, words: Words, out: np.ndarray) -> int:
        """Writes whole rows; returns how many elements are infinite or NaN."""
        n_bad, units = 0, []
        for start in range(0, out.size, self.width):
            row = [each[start : start + self.width] for each in words]
            made = drive(self.method(), lambda row=row: (row,))
            n_bad += made.combine.into(row, out[start : start + self.width])
            units.append(made)
        self.tally.add(units)
        return n_bad


def by_column(method: Callable[[], Steps], width: int) -> Steps:
    """The method at work on every column; `method` starts it again for each."""
    steps = [method() for _ in range(width)]
    made = yield from _in_step(steps)
    combines: list[Any] = [each.combine for each in made]
    assert all(type(combine) is WeightedSum for combine in combines), "columns are weighted sums"
    tally = _Tally()
    tally.add(made)
    coefficients = np.array([combine.coefficients for combine in combines]).T
    return tally.summary(Made(_Columns(coefficients), ""), "column")


def _in_step(steps: Sequence[Steps]) -> Generator[Measure, Any, list[Made]]:
    """Asks for what the columns ask for, one kind of measure at a time, of all of them together."""
    made: dict[int, Made] = {}

    def following(column: int, value: Any) -> Any:
        try:
            return steps[column].send(value)
        except StopIteration as end:
            made[column] = end.value
            return None

    asked = [following(column, None) for column in range(len(steps))]
    while len(made) < len(steps):
        kind = min({type(measure) for measure in asked if measure is not None}, key=lambda kind: kind.turn)
        chosen = [measure if type(measure) is kind else None for measure in asked]
        values = yield kind.of_columns(chosen)
        for column, measure in enumerate(chosen):
            if measure is not None:
                asked[column] = following(column, values[column])
    return [made[column] for column in range(len(steps))]


@dataclass(frozen=True, slots=True)
class _Columns:
    """Writes each column's weighted sum: coefficients of shape (sources, columns)."""

    coefficients: np.ndarray

    def into(self, words: Words, out: np.ndarray) -> int:
        """Writes whole rows; returns how many elements are infinite or NaN."""
        n_bad, start = 0, 0
        for block in blocks_of(words, self.coefficients.shape[1]):
            total = _sum(c * x for c, x in zip(self.coefficients, block, strict=True))
            n_bad += kernels.convert(total.reshape(-1), out[start : start + total.size])
            start += total.size
        return n_bad


def _sum(terms: Iterable[np.ndarray]) -> np.ndarray:
    return reduce(np.add, terms)
