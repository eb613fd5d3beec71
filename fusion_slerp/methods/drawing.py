"""What the methods that draw elements at random have in common: options, parameters, and their steps.

Each element of each model has a random word of 32 bits, and is kept if the word is below the model's
probability times 2^32. The word depends on the seed, on the names of the tensor and the model, and on the
element's index in the merged model's tensor, after any permutation of its rows: on nothing else (see
`passes.chances` and `kernels.random_words`). So the same elements are kept for any threads, files and order
of the models, and in a tensor alone as in the whole model.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.errors import setting
from fusion_slerp.methods import sparse
from fusion_slerp.methods.method import Method, Unit, UnusableError
from fusion_slerp.methods.sparse import SparseParameters
from fusion_slerp.methods.task_vector_options import Sparse
from fusion_slerp.options import BOOLEAN, Check, is_number, option, or_null

if TYPE_CHECKING:
    from fusion_slerp.passes.chances import Draw
    from fusion_slerp.passes.kept_masks import Kept
    from fusion_slerp.passes.protocols import Measure, Steps

SEED = Check(lambda v: is_number(v) and v == int(v) >= 0, "a whole number, at least 0")

NAMES = Check(
    lambda value: (
        isinstance(value, Mapping)
        and all(isinstance(each, str) and each for pair in value.items() for each in pair)
    ),
    "names by label, such as {a: first, b: second}",
)

HALF = Check(lambda v: is_number(v) and 0 <= v <= 0.5, "a number in [0, 0.5]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing(Sparse):
    """The options of methods that draw elements at random.

    Attributes:
        density: The probability with which an element is kept, in [0, 1]: one for all models, or in the forms
            of `weight`.
        rescale: Multiply what is kept of each task vector so that the sum of its magnitudes is that of the
            whole one, tensor by tensor.
        seed: Another seed keeps other elements.
        names: The models' names, which decide which elements are kept: `{"a": "first", "b": "second"}`. A
            model that it omits has its Hub id or the last name of its folder; if FusionBench loads it, its
            name in the pool.
    """

    rescale: bool = option(True, BOOLEAN, True, panel="Merging")
    seed: int = option(0, SEED, 1, panel="Merging")
    names: Mapping[str, str] | None = option(
        None, or_null(NAMES), {"a": "first", "b": "second"}, panel="Merging", is_per_model=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDrawing(Drawing):
    """The options of methods that draw large differences more often.

    Attributes:
        density: The mean probability with which an element is kept, in [0, 1]: one for all models, or in the
            forms of `weight`.
        epsilon: How much more than `density` the largest difference in a row is likely to be kept, and how
            much less the smallest: at most 0.5, in the forms of `weight`.
    """

    epsilon: Any = option(0.15, HALF, 0.1, panel="Merging", is_schedule=True, is_per_model=True)


@dataclass(frozen=True, slots=True)
class DrawnParameters:
    """The parameters of one unit.

    Attributes:
        common: Weights, densities, and what is done with the sum.
        spreads: Of the probabilities in a row, by model; see `passes.Draw`.
        names: Of the models.
        seed: At least 0.
    """

    common: SparseParameters
    spreads: tuple[float, ...]
    names: tuple[str, ...]
    seed: int

    def draws(self, tensor: str) -> tuple[Draw, ...]:
        """Returns how each model's elements are drawn in a tensor."""
        by_model = zip(self.names, self.common.densities, self.spreads, strict=True)
        return tuple(passes.Draw(passes.key_of(self.seed, tensor, name), *how) for name, *how in by_model)


def parameters_of(options: Drawing, values: Mapping[str, Any], labels: Sequence[str]) -> DrawnParameters:
    """Returns the parameters for sources of which the last is the base; see `Method.parameters`.

    A model without a name is called by its label.
    """
    *models, _ = labels
    names = options.names or {}
    spreads = values.get("epsilon", {})
    p = DrawnParameters(
        sparse.parameters_of(options, values, labels),
        tuple(spreads.get(label, 0.0) for label in models),
        tuple(names.get(label, label) for label in models),
        int(options.seed),
    )
    _check_range(p, models)
    return p


def _check_range(p: DrawnParameters, labels: Sequence[str]) -> None:
    by_model = list(zip(labels, p.common.densities, p.spreads, strict=True))
    wrong = [each for each in by_model if not passes.Draw(0, *each[1:]).is_in_range]
    if wrong:
        shown = ", ".join(f"{label} (density {density:g}, epsilon {e:g})" for label, density, e in wrong)
        fitting = min(min(density, 1.0 - density) for _, density, _ in wrong) / 2
        fix = f"use {setting('epsilon', float(f'{fitting:.1g}'))}, or another density"
        raise UnusableError(f"density - epsilon and density + epsilon must be inside (0, 1): {shown}", fix)


def used(p: DrawnParameters) -> list[int]:
    """Returns the indexes of the models that have a weight, and of the base."""
    return sparse.used(p.common)


def copied(p: DrawnParameters) -> int | None:
    """Returns the index of the base if nothing is added to it."""
    return sparse.copied(p.common)


def n_passes(p: DrawnParameters) -> tuple[int, int]:
    """Returns the number of passes before the sum: one measures what is kept, if it is rescaled."""
    n = int(p.common.rescale and any(passes.Draw(0, density).is_random for density in p.common.densities))
    return n, n


def draw_and_add(p: DrawnParameters, unit: Unit, rule: str, is_elected: bool) -> Steps:
    """Draws elements of the task vectors, rescales them and adds them to the base.

    Args:
        p: The parameters.
        unit: The unit.
        rule: The rule's name.
        is_elected: Whether only models take part that have the sign of the sum.
    """
    selection = passes.Drawn(p.draws(unit.name), unit.width)
    factors = None
    if n_passes(p)[0]:
        selection = passes.Kept(selection)
        factors = yield from _rescaling(selection)
    table = sparse.table_of(p.common, factors, is_elected)
    votes = sparse.votes_of(p.common, factors) if is_elected else None
    return passes.Made(passes.SelectedSum(selection, table, votes), rule)


def _rescaling(selection: Kept) -> Generator[Measure, Any, tuple[float, ...]]:
    """Returns for each model the factor that preserves its sum of magnitudes; 1 if nothing is kept."""
    sums = yield passes.SelectedMagnitudes(selection)
    return tuple(total / kept if kept > 0 else 1.0 for total, kept in sums)


def drawing_method(name: str, options: type[Drawing], summary: str, *, is_elected: bool) -> Method:
    """Returns a method that draws elements: by rank in a row if its options have a spread of probabilities.

    Args:
        name: As users write it; also the rule in reports.
        options: The dataclass that declares its options.
        summary: As in `Method`.
        is_elected: As in `draw_and_add`.
    """

    def steps(p: DrawnParameters, unit: Unit) -> Steps:
        return draw_and_add(p, unit, name, is_elected)

    return Method(
        name=name,
        n_models=(1, None),
        options=options,
        parameters=parameters_of,
        used=used,
        copied=copied,
        passes=n_passes,
        steps=steps,
        summary=summary,
        base="needed",
        is_in_span=False,
        needs_rows=issubclass(options, RankedDrawing),
        is_indexed=True,
    )
