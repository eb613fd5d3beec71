"""The parameters and coefficients of methods that take a part of each task vector's elements."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import fsum
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.errors import setting
from fusion_slerp.methods.method import UnusableError
from fusion_slerp.methods.task_vector_options import Sparse

if TYPE_CHECKING:
    from fusion_slerp.passes.by_magnitude import ByMagnitude
    from fusion_slerp.passes.protocols import Measure

MOST_MODELS = 12
"""Each set of models has a row in the table of coefficients: 4,096 rows stay in the processor's cache."""

Table = tuple[tuple[float, ...], ...]
"""A row for each set of models, by mask: the models' coefficients, then the base's."""


@dataclass(frozen=True, slots=True)
class SparseParameters:
    """The parameters of one unit.

    Attributes:
        weights: By model, without the base.
        densities: The part of each task vector that is taken, in [0, 1].
        factor: Of the merged task vector, in front of the base.
        normalize: Whether sums are divided by the weights that take part.
        rescale: Whether the sum of magnitudes of each task vector is preserved.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...]
    factor: float
    normalize: bool
    rescale: bool


def check_number(n: int) -> None:
    """Raises UnusableError if there are more models than a table has sets for."""
    if n > MOST_MODELS:
        reason = f"{n} models: sets of at most {MOST_MODELS} are distinguished"
        raise UnusableError(reason, "merge fewer at a time, and then the results")


def parameters_of(options: Sparse, values: Mapping[str, Any], labels: Sequence[str]) -> SparseParameters:
    """Returns the parameters for sources of which the last is the base; see `Method.parameters`."""
    *models, _ = labels
    check_number(len(models))
    weights = tuple(values["weight"][label] for label in models)
    if options.normalize and any(weights) and not fsum(weights):
        shown = ", ".join(f"{label} {weight:g}" for label, weight in zip(models, weights, strict=True))
        fix = f"change a weight, or use {setting('normalize', False)}"
        raise UnusableError(f"weights that sum to zero: {shown}", fix)
    return SparseParameters(
        weights,
        tuple(values["density"][label] for label in models),
        options.scaling_factor * (1.0 - options.towards_base),
        options.normalize,
        options.rescale,
    )


def used(p: SparseParameters) -> list[int]:
    """Returns the indexes of the models that have a weight, and of the base."""
    return [*(i for i, weight in enumerate(p.weights) if weight), len(p.weights)]


def copied(p: SparseParameters) -> int | None:
    """Returns the index of the base if nothing is added to it."""
    return None if p.factor and any(p.weights) else len(p.weights)


def rescaling(selection: ByMagnitude) -> Generator[Measure, Any, tuple[float, ...]]:
    """Returns for each model the factor that preserves its sum of magnitudes; 1 if nothing is selected."""
    sums = yield passes.SelectedMagnitudes(selection.between)
    kept = [between + rest for (_, between), rest in zip(sums, selection.magnitudes_at_cuts, strict=True)]
    return tuple(total / part if part > 0 else 1.0 for (total, _), part in zip(sums, kept, strict=True))


def votes_of(p: SparseParameters, factors: Sequence[float] | None) -> tuple[float, ...]:
    """Returns the models' weights in an election: of task vectors as they are after rescaling."""
    return p.weights if factors is None else tuple(w * f for w, f in zip(p.weights, factors, strict=True))


def table_of(p: SparseParameters, factors: Sequence[float] | None, is_elected: bool) -> Table:
    """Returns the coefficients of the models and the base for each set of models, by mask.

    Args:
        p: The parameters.
        factors: Of each task vector; None for 1.
        is_elected: Whether `normalize` divides by the weights of the set, not of all models; a sum of zero
            counts as 1.
    """
    return _table(p, None if factors is None else tuple(factors), is_elected)


@lru_cache(maxsize=64)
def _table(p: SparseParameters, factors: tuple[float, ...] | None, is_elected: bool) -> Table:
    """`table_of`, kept for the next tensor: with many models it takes longer than a small tensor."""
    n = len(p.weights)
    scaled = votes_of(p, factors)

    def of_set(chosen: Sequence[int]) -> Sequence[float]:
        divisor = fsum(p.weights[i] for i in (chosen if is_elected else range(n))) if p.normalize else 1.0
        share = p.factor / (divisor or 1.0)
        return [share * scaled[i] for i in chosen]

    return by_set(n, of_set)


def by_set(n: int, of_set: Callable[[Sequence[int]], Sequence[float]]) -> Table:
    """Returns a table of coefficients for each set of n models, whose base makes the sum of each row 1.

    Args:
        n: Number of models.
        of_set: Takes the models of a set; returns their coefficients.
    """
    rows = []
    for mask in range(1 << n):
        chosen = [i for i in range(n) if mask >> i & 1]
        row = [0.0] * n
        for i, coefficient in zip(chosen, of_set(chosen), strict=True):
            row[i] = coefficient
        rows.append((*row, fsum([1.0, *(-each for each in row)])))
    return tuple(rows)
