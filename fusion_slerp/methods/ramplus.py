"""RAM+: as `ram`, and the changes of one model alone grow with the part of its changes that it shares.

    d_i, changed elements: as `ram`
    u_i = number of elements that model i alone changed, s_i = number that it and others changed
    f_i = 1 + r clip(s_i / u_i, 0, alpha)
    D:      nobody changed it: 0;  one model did: f_i d_i;  several: the mean of their d_i
    result: base + D

The counts are those of each tensor. With the default `r` and `alpha`, f is at most 1.02.

Purpose: as `ram`. Averaging lowers the shared changes of a model, and the factor is meant to make up for
that. The paper reports the best results with it, on its own models and tasks.

Source: X. Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models", 2026,
https://arxiv.org/abs/2601.13572; counts per tensor, the parameters and their defaults are those of mergekit's
`ramplus_tl`. We differ from mergekit 0.1.5 in the type of the result (it
writes float32 where the models are bfloat16, while its config.json says bfloat16), and as `ram` does.

Cost: two reads: the counts, then the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.ram import RamOptions, RamParameters, copied, parameters_of, sum_of_changes, used
from fusion_slerp.options import NON_NEGATIVE, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class RamplusOptions(RamOptions):
    """The options of RAM+.

    Attributes:
        r: How much the ratio of shared to own changes raises own changes.
        alpha: The largest ratio that counts.
    """

    r: float = option(0.1, NON_NEGATIVE, 0.2, panel="Merging")
    alpha: float = option(0.2, NON_NEGATIVE, 0.5, panel="Merging")


@dataclass(frozen=True, slots=True)
class RamplusParameters(RamParameters):
    """The parameters of one unit.

    Attributes:
        r: How much the ratio counts.
        alpha: The largest ratio.
    """

    r: float
    alpha: float


def ramplus(p: RamplusParameters, unit: Unit) -> Steps:
    """Counts changes, then combines the task vectors."""
    counts = yield passes.SharedCounts(passes.above(p.epsilon, p.n))
    ratios = [min(shared / alone, p.alpha) if alone else 0.0 for alone, shared in counts]
    return passes.Made(sum_of_changes(p, [1.0 + p.r * ratio for ratio in ratios]), "ramplus")


def _parameters(
    options: RamplusOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> RamplusParameters:
    p = parameters_of(options, values, labels)
    return RamplusParameters(p.n, p.epsilon, p.factor, options.r, options.alpha)


RAMPLUS = Method(
    name="ramplus",
    n_models=(1, None),
    options=RamplusOptions,
    parameters=_parameters,
    used=used,
    copied=copied,
    passes=lambda p: (1, 1),
    steps=ramplus,
    summary="changes of one model raised, those of several averaged (ramplus)",
    base="needed",
    is_in_span=False,
)
