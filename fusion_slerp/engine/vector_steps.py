"""The steps of matrices whose rows, or columns, each have an angle of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fusion_slerp.chunks import Chunk
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.tensor_work import Result, refuse_overflow
from fusion_slerp.methods.slerp import NotFiniteError, Sums
from fusion_slerp.methods.slerp_by_vector import (
    Method,
    angle_of_all,
    column_coefficients,
    combine_columns,
    measure_columns,
    slerp_rows,
)
from fusion_slerp.planning.plan import TensorPlan

if TYPE_CHECKING:
    from fusion_slerp.engine.executor import Crew

R = TypeVar("R")


class _ByVector:
    """What both have in common: chunks of whole rows."""

    def __init__(self, tensor: TensorPlan, crew: Crew) -> None:
        self._tensor, self._crew = tensor, crew
        self._chunks = tensor.chunks
        settings = crew.work.settings
        self._method = Method(tensor.t, settings.DOT_THRESHOLD, settings.epsilon)

    def _submit(self, task: Callable[[Chunk], R], chunk: Chunk) -> Future[R]:
        return self._crew.submit(self._tensor.out.place(chunk[0]), task, chunk)

    def _write(self, result: Result, n_bad: int) -> Future[int]:
        try:
            refuse_overflow(self._tensor, n_bad)
        except BaseException:
            self._crew.give_back(result)
            raise
        return self._crew.write(result)

    def _report(self, rules: Counter[str], sums: Sequence[Sums]) -> TensorReport:
        t = self._tensor
        (rule, _), *_ = rules.most_common(1)
        angle, norm_a, norm_b = angle_of_all(sums)
        return TensorReport(
            t.out.name, f"{rule}, by {t.granularity}", t.t, t.out.n_elements, angle, norm_a, norm_b
        )


class Rows(_ByVector):
    """One task per chunk: a row needs nothing but itself."""

    def start(self) -> None:
        self._made = [self._submit(self._make, chunk) for chunk in self._chunks]

    def combine(self) -> None:
        """Nothing: it is part of the tasks."""

    def finish(self, on_bytes: Callable[[int], object]) -> list[TensorReport]:
        rules, sums = Counter[str](), list[Sums]()
        for future in self._made:
            written, some_rules, some_sums = future.result()
            on_bytes(written.result())
            rules += some_rules
            sums += some_sums
        return [self._report(rules, sums)]

    def _make(self, chunk: Chunk) -> tuple[Future[int], Counter[str], list[Sums]]:
        width, method = self._tensor.a.row_elements, self._method

        def fill(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> tuple[int, Counter[str], list[Sums]]:
            return slerp_rows(a, b, width, method, out)

        try:
            result, (n_bad, rules, sums) = self._crew.work.fill_pair(self._tensor, chunk, fill)
        except NotFiniteError:
            raise self._crew.work.not_finite(self._tensor) from None
        return self._write(result, n_bad), rules, sums


class Columns(_ByVector):
    """Two rounds of tasks, as columns run through all chunks."""

    def start(self) -> None:
        work, width = self._crew.work, self._tensor.a.row_elements

        def measure(chunk: Chunk) -> np.ndarray:
            return work.with_pair(self._tensor, chunk, lambda a, b: measure_columns(a, b, width))

        self._measured = [self._submit(measure, chunk) for chunk in self._chunks]

    def combine(self) -> None:
        sums = [future.result() for future in self._measured]
        try:
            found = column_coefficients(sums, self._method, self._pairs)
        except NotFiniteError:
            raise self._crew.work.not_finite(self._tensor) from None
        rules = Counter(each.rule for each in found)
        self._found = self._report(rules, [tuple(column) for column in np.sum(sums, axis=0).T.tolist()])

        def make(chunk: Chunk) -> Future[int]:
            result, n_bad = self._crew.work.fill_pair(
                self._tensor, chunk, lambda a, b, out: combine_columns(a, b, found, out)
            )
            return self._write(result, n_bad)

        self._combined = [self._submit(make, chunk) for chunk in self._chunks]

    def finish(self, on_bytes: Callable[[int], object]) -> list[TensorReport]:
        for combined in self._combined:
            on_bytes(combined.result().result())
        return [self._found]

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for chunk in self._chunks:
            yield self._crew.work.with_pair(self._tensor, chunk, lambda a, b: (a.copy(), b.copy()))
