"""A matrix whose rows or columns are separate units: the method is applied to each.

mergekit's NuSLERP offers both with `nuslerp_flatten: false`: rows by default, columns with
`nuslerp_row_wise: true` (the flag names the transposed axis).

A row is measured when it is written. Columns extend over all rows, so each pass measures every column that
still requests a measure.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.kernels import Table, Words
from fusion_slerp.passes.exact_sums import ExactSums, total_of
from fusion_slerp.passes.gram import GramMatrix, gram_matrix
from fusion_slerp.passes.many import AtOnce, combine_many, drive_many
from fusion_slerp.passes.protocols import Counted, Made, Measure, NotFiniteError, Steps
from fusion_slerp.passes.weighted_sum import WeightedSum


@dataclass(slots=True)
class _Tally:
    """Counts units by rule and adds up their Gram matrices, from any thread, in any order."""

    rules: Counter[str] = field(default_factory=Counter)
    products: ExactSums | None = None
    _adding: threading.Lock = field(default_factory=threading.Lock)

    def add(self, units: Sequence[Made]) -> None:
        """Adds the units of a chunk."""
        measured = [unit.gram for unit in units if unit.gram is not None]
        products = np.array([gram.products for gram in measured])
        powers = np.array([gram.product_exponents for gram in measured])
        self.add_measured([unit.rule for unit in units], products, powers)

    def add_measured(self, rules: Sequence[str], products: np.ndarray, powers: np.ndarray) -> None:
        """Adds the units of a chunk: their rules, and the Gram matrices of those that were measured.

        Args:
            rules: Of each unit.
            products: Their products, as measured.
            powers: The powers of two by which these were divided.
        """
        part = ExactSums(_scaled_sums(products, powers)) if products.size else None
        with self._adding:
            self.rules.update(rules)
            if part is not None:
                self.products = part if self.products is None else self.products.join(part)

    def summary(self, made: Made, unit: str) -> Made:
        """Returns the most frequent rule (of several, the first by name), with norms and angle of all."""
        rule = min(self.rules, key=lambda rule: (-self.rules[rule], rule))
        gram = None if self.products is None else _in_range(self.products.totals())
        angle = None if gram is None else gram.angle_deg
        return made._replace(rule=f"{rule}, by {unit}", gram=gram, angle_deg=angle, after=None)


SMALL = 2.0**-500
"""Squares of smaller norms begin to lose digits."""

TURNED_ELEMENTS = 1 << 18
"""Elements of each source that are transposed at a time."""

SCALES = (0, -550, 550)
"""Exponents of two by which vectors are scaled before their products are added up; only float64 can need the
last two.
"""


def _scaled_sums(products: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """The sum of all matrices at each scale: float64 of shape (scales, products)."""
    with np.errstate(over="ignore", under="ignore"):
        scaled = [np.ldexp(products, powers + 2 * scale) for scale in SCALES]
    return np.array([[total_of(column) for column in each.T.tolist()] for each in scaled])


def _in_range(sums: np.ndarray) -> GramMatrix:
    """The matrix at the first scale without overflow or underflow; else at the first without overflow."""
    by_scale = [
        gram_matrix(each.tolist(), (-scale,) * isqrt(2 * len(each)) if scale else ())
        for scale, each in zip(SCALES, sums, strict=True)
    ]
    finite = [gram for gram in by_scale if gram.is_finite]
    return next((gram for gram in finite if min(gram.measured_norms) > SMALL), (finite or by_scale)[0])


def together(units: Sequence[Made], name: str) -> Made:
    """Returns several units as one, for a report: the most frequent rule, and norms and angle of all."""
    tally = _Tally()
    tally.add(units)
    return tally.summary(units[0], name)


def by_row(method: Callable[[], Steps], width: int, at_once: AtOnce | None = None) -> Steps:
    """Applies a method to every row.

    Args:
        method: Returns a new generator for a row.
        width: Elements of a row.
        at_once: Decides many rows as the generator would, where it can.
    """
    yield from ()
    tally = _Tally()
    made = Made(_Rows(method, width, tally, at_once), "by row")
    return made._replace(after=lambda: tally.summary(made, "row"))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Measures and writes row by row."""

    method: Callable[[], Steps]
    width: int
    tally: _Tally
    at_once: AtOnce | None

    def into(self, words: Words, out: np.ndarray, start: int = 0, counted: Counted | None = None) -> int:
        """Writes whole rows; returns how many elements are infinite or NaN.

        Raises:
            NotFiniteError: An element of a source is infinite or NaN.
        """

        def row(i: int) -> Words:
            return [each[i * self.width : (i + 1) * self.width] for each in words]

        table, whole = (_table_of_rows(of, self.width) for of in (words, [*words, out]))
        if self.at_once is not None:
            coefficients = self._coefficients(self.at_once, table, row)
            return int(kernels.weighted_sums_of_many(whole, coefficients).sum())
        units = self._made(table, row)
        self.tally.add(units)
        return sum(combine_many(units, whole, lambda i: (row(i), out[i * self.width : (i + 1) * self.width])))

    def _made(self, table: Table, row: Callable[[int], Words]) -> list[Made]:
        made = drive_many([self.method() for _ in table.rows], table, row)
        units = [unit for unit in made if isinstance(unit, Made)]
        if len(units) < len(made):
            raise NotFiniteError
        return units

    def _coefficients(self, at_once: AtOnce, table: Table, row: Callable[[int], Words]) -> np.ndarray:
        """The coefficients of each row, most of them by one call."""
        products = kernels.gram_of_many(table, at_once.is_relative)
        coefficients, rules, is_decided = at_once.decide(products)
        rules, powers = list(rules), np.zeros(products.shape, np.int64)
        others = np.flatnonzero(~is_decided).tolist()
        made = self._made(Table(table.rows[others], table.dtypes), lambda k: row(others[k]))
        for i, unit in zip(others, made, strict=True):
            combine: Any = unit.combine
            assert type(combine) is WeightedSum, "in the span of the sources"
            assert unit.gram is not None, "measured"
            coefficients[i], rules[i] = combine.coefficients, unit.rule
            products[i], powers[i] = unit.gram.products, unit.gram.product_exponents
        self.tally.add_measured(rules, products, powers)
        return coefficients


def _table_of_rows(words: Words, width: int) -> Table:
    """The table of a chunk's rows, which must stay valid while it is in use."""
    whole = kernels.table_of("rows", words)
    starts = np.arange(words[0].size // width)[:, None] * [width * each.itemsize for each in words]
    rows = np.column_stack([np.full(len(starts), width), whole.rows[0, 1:] + starts])
    return Table(np.ascontiguousarray(rows, np.int64), whole.dtypes)


def by_column(method: Callable[[], Steps], width: int) -> Steps:
    """Applies a method to every column; `method` returns a new generator for each."""
    steps = [method() for _ in range(width)]
    made = yield from _in_step(steps)
    combines: list[Any] = [each.combine for each in made]
    assert all(type(combine) is WeightedSum for combine in combines), "columns are weighted sums"
    tally = _Tally()
    tally.add(made)
    coefficients = np.array([combine.coefficients for combine in combines])
    return tally.summary(Made(_Columns(coefficients), ""), "column")


def _in_step(steps: Sequence[Steps]) -> Generator[Measure, Any, list[Made]]:
    """Yields the measures that the columns request, one kind at a time, for all columns together."""
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
    """Writes each column's weighted sum: coefficients of shape (columns, sources)."""

    coefficients: np.ndarray

    def into(self, words: Words, out: np.ndarray, start: int = 0, counted: Counted | None = None) -> int:
        """Writes whole rows; returns how many elements are infinite or NaN."""
        n_bad, width = 0, len(self.coefficients)
        step = max(1, TURNED_ELEMENTS // width) * width
        for first in range(0, out.size, step):
            part = slice(first, first + step)
            turned = [each[part].reshape(-1, width).T.reshape(-1) for each in words]
            target = np.empty_like(out[part])
            table = _table_of_rows([*turned, target], target.size // width)
            n_bad += int(kernels.weighted_sums_of_many(table, self.coefficients).sum())
            out[part].reshape(-1, width)[:] = target.reshape(width, -1).T
        return n_bad
