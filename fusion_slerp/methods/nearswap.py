"""Nearswap: takes a model's elements where it is close to the base, and moves towards it elsewhere.

    result = base + clip(x - base, -t, t)

So elements within t of the base's become the model's own, and all others move by t. At t = 0 the result is
the base; as t grows it becomes the model.

Purpose: giving a base, often a merge itself, some of a model's traits without its large changes. It became
known through merges of 70B models with t from 1e-4 to 1e-3. There is no paper and no evaluation beyond those
models' own pages; t has the scale of the weights, so one value means different things for different models.
The change is the smallest of all models within t of x: for a merge that keeps the direction of a change,
interpolate instead (`slerp`, `linear`, `task_arithmetic` with a `scaling_factor`).

Source: alchemonaut, BoreanGale-70B, 2024, https://huggingface.co/alchemonaut/BoreanGale-70B; t is that of
mergekit's `nearswap`. It writes the same thing as an interpolation by t / |x - base|, clipped to [0, 1],
whose divisor is at least 1e-6: with a t below 1e-6 it moves elements that differ by less than that by too
little; here no size is special. It computes in float32 or the models' type; here the result is exact, and
rounded once.

Cost: one read, one write.

Left out beside it: mergekit's `arcee_fusion`. It needs the quartiles of |x - base| times a Kullback-Leibler
divergence between the softmax of rows: a measure over whole rows, three ranks of a product that no integer
key orders exactly, and a table of divergences for each row that grows with the tensor. Its own results differ
from run to run, as it takes the quartiles of a random sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.task_vector_options import TowardsBase
from fusion_slerp.options import NON_NEGATIVE, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class NearswapOptions(TowardsBase):
    """The options of nearswap.

    Attributes:
        t: The largest distance by which an element moves from the base towards the model, at least 0: one
            number, a gradient or entries by name.
    """

    t: Any = option(0.001, NON_NEGATIVE, 0.0001, panel="Merging", is_schedule=True)


@dataclass(frozen=True, slots=True)
class NearswapParameters:
    """The parameters of one unit.

    Attributes:
        t: The largest distance.
        factor: Of the move, in front of the base.
    """

    t: float
    factor: float


def nearswap(p: NearswapParameters, unit: Unit) -> Steps:
    """Combines the vectors without measuring them."""
    yield from ()
    return passes.Made(passes.Clipped(p.t, p.factor), "nearswap")


def _parameters(
    options: NearswapOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> NearswapParameters:
    return NearswapParameters(values["t"], 1.0 - options.towards_base)


NEARSWAP = Method(
    name="nearswap",
    n_models=(1, 1),
    options=NearswapOptions,
    parameters=_parameters,
    used=lambda p: [0, 1],
    copied=lambda p: None if p.t and p.factor else 1,
    passes=lambda p: (0, 0),
    steps=nearswap,
    summary="the base, moved by at most t towards a model (nearswap)",
    base="needed",
    is_in_span=False,
)
