"""Methods in the span of their sources, with options, vectors and their coefficients to 50 digits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.kernels import Words
from fusion_slerp.methods import METHODS
from fusion_slerp.methods.method import BASE, Unit
from fusion_slerp.options import declaration, declared
from fusion_slerp.passes.protocols import Made, drive
from tests.methods import fifty_digits as exact
from tests.reference import (
    F32,
    FORMATS,
    Format,
    decode,
    encode,
    round_to,
)

named = pytest.mark.parametrize
ALL = list(FORMATS.values())
N, CHUNK = 150, 64
LABELS = "abcde"
UNEQUAL = (0.4, 1.0, 0.25, 0.7, 0.1)


@dataclass(frozen=True)
class Case:
    """A method with options, and its coefficients to 50 digits.

    Attributes:
        method: Its name.
        expected: Takes the exact vectors and the weights; returns the coefficients of the vectors.
        has_base: Whether the last source is the base.
        is_relative: Whether the vectors are differences from it.
        options: Further options.
        n_models: Numbers of models.
        is_ordered: Whether the order of the models has a meaning.
    """

    method: str
    expected: Callable[[exact.Vectors, Sequence[Any]], list[Any]]
    has_base: bool = False
    is_relative: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    n_models: tuple[int, ...] = (1, 2, 3, 5)
    is_ordered: bool = False

    @property
    def towards_base(self) -> float:
        return self.options.get("towards_base", 0.0)

    def parameters(self, n: int, weights: Sequence[float] | None = None) -> Any:
        """The method's parameters for n models, with unequal weights if it takes weights."""
        how = METHODS[self.method]
        options = how.options(**{k: v for k, v in self.options.items() if k in declared(how.options)})
        weights = weights or UNEQUAL
        values: dict[str, Any] = {}
        for name, each in declared(how.options).items():
            if declaration(each).is_per_model:
                values[name] = dict(zip(LABELS[:n], weights, strict=False))
            elif declaration(each).is_schedule:
                values[name] = self.options.get(name, each.default)
        return how.parameters(options, values, (*LABELS[:n], *([BASE] if self.has_base else [])))

    def decide(self, words: Words, weights: Sequence[float] | None = None) -> Made:
        """The method's decision for words in chunks."""
        how, n = METHODS[self.method], len(words) - self.has_base
        unit = Unit("w", words[0].size, words[0].size)
        return drive(how.start(self.parameters(n, weights), unit), lambda: chunks_of(words))

    def reference(self, values: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> list[Any]:
        """The coefficients of all sources, to 50 digits."""
        models = values[: len(values) - self.has_base]
        given = [exact.mp.mpf(w) for w in (weights or UNEQUAL)[: len(models)]]
        found = self.expected(exact.vectors(models, values[-1] if self.is_relative else None), given)
        if self.is_relative:
            return exact.with_base(found, self.towards_base)
        s = exact.mp.mpf(self.towards_base)
        return [*((1 - s) * each for each in found), s] if self.has_base else found


def chunks_of(words: Words) -> Iterator[Words]:
    for start in range(0, max(words[0].size, 1), CHUNK):
        yield [each[start : start + CHUNK] for each in words]


def normalised(of: Callable[..., list[Any]]) -> Callable[[exact.Vectors, Sequence[Any]], list[Any]]:
    return lambda v, w: of(v, exact.shares(w))


def alone(of: Callable[..., list[Any]], *more: Any) -> Callable[[exact.Vectors, Sequence[Any]], list[Any]]:
    return lambda v, w: of(v, *more)


T = {"t": 0.3, "epsilon": 0.0}
RELATIVE = {"has_base": True, "is_relative": True}
CASES = {
    "linear": Case("linear", lambda v, w: exact.shares(w)),
    "linear, towards": Case("linear", lambda v, w: exact.shares(w), True, options={"towards_base": 0.3}),
    "linear, raw": Case("linear", lambda v, w: list(w), options={"normalize": False}),
    "task": Case("task_arithmetic", lambda v, w: list(w), **RELATIVE),
    "task, scaled": Case(
        "task_arithmetic",
        lambda v, w: [exact.mp.mpf(0.7) * each for each in exact.shares(w)],
        **RELATIVE,
        options={"normalize": True, "scaling_factor": 0.7, "towards_base": 0.2},
    ),
    "slerp": Case("slerp", alone(exact.slerp, 0.3), n_models=(2,), is_ordered=True, options=T),
    "slerp, base": Case(
        "slerp",
        alone(exact.slerp, 0.3),
        n_models=(2,),
        is_ordered=True,
        **RELATIVE,
        options=T,
    ),
    "slerp, towards": Case(
        "slerp",
        alone(exact.slerp, 0.5),
        n_models=(2,),
        **RELATIVE,
        options={"towards_base": 0.7, "epsilon": 0.0},
    ),
    "multislerp": Case("multislerp", normalised(exact.multislerp)),
    "multislerp, base": Case("multislerp", normalised(exact.multislerp), **RELATIVE),
    "multislerp, raw": Case(
        "multislerp", exact.multislerp, **RELATIVE, options={"normalize": False, "towards_base": 0.1}
    ),
    "karcher": Case("karcher", normalised(exact.karcher)),
    "karcher, towards": Case("karcher", normalised(exact.karcher), True, options={"towards_base": 0.3}),
    "model_stock": Case("model_stock", alone(exact.model_stock), n_models=(2, 3, 5), **RELATIVE),
    "model_stock, towards": Case(
        "model_stock", alone(exact.model_stock), n_models=(2, 3), **RELATIVE, options={"towards_base": 0.4}
    ),
    "warp": Case("warp", alone(exact.warp), n_models=(2, 3, 5), is_ordered=True, **RELATIVE),
    "warp, towards": Case(
        "warp", alone(exact.warp), n_models=(3,), is_ordered=True, **RELATIVE, options={"towards_base": 0.7}
    ),
}
each_case = named("case", CASES.values(), ids=CASES)


def words_of(values: np.ndarray, format: Format) -> np.ndarray:
    return encode(round_to(values, format), format).view(BY_NAME[format.name].word)


def sources(
    case: Case, n: int, formats: Sequence[Format] = (F32,), spread: float = 0.5, seed: int = 1
) -> list:
    """Words of models around a base, of unequal task vectors; last the base, if there is one."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.02, N)
    shared = rng.normal(0, 0.02, N)
    models = [base + spread * (shared + (1 + i) * rng.normal(0, 0.02, N)) for i in range(n)]
    every = [*models, *([base] if case.has_base else [])]
    return [words_of(each, formats[i % len(formats)]) for i, each in enumerate(every)]


def values_of(words: Words, formats: Sequence[Format]) -> list[np.ndarray]:
    return [decode(each, formats[i % len(formats)]) for i, each in enumerate(words)]


def cases_and_numbers() -> Iterator[Any]:
    for name, case in CASES.items():
        for n in case.n_models:
            yield pytest.param(case, n, id=f"{name}, {n}")
