"""RAM: changes of one model alone are kept whole, changes that several models share are averaged.

    d_i = x_i - base                                       task vectors
    a model changed an element if |d_i| > epsilon
    D:      nobody changed it: 0;  one model did: its d_i;  several: the mean of their d_i
    result: base + D

Purpose: merging models that reinforcement learning trained from one base for different tasks. It changes few
elements, each model others, so that a plain average of n models would divide most changes by n. The evidence
is that of the paper: agents for code, tools and long memory, based on Qwen and Llama. If the models changed
nearly all elements, as full fine-tunes in float32 do, the result is nearly their average. `epsilon` has the
scale of the weights: 1e-5 is below the smallest step of most bfloat16 weights (1e-4 for a weight of 0.02), so
there it means any change. A study of merging language models in general (https://arxiv.org/abs/2511.21437)
found that only task arithmetic gained reliably; it is older than this method.

Source: X. Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models", 2026,
https://arxiv.org/abs/2601.13572; `epsilon` is that of mergekit's `ram`. We differ from mergekit in computing
in float64 and rounding once: in bfloat16 the differences of its models are rounded before they are compared
and added. Magnitudes are compared with epsilon as float32.

Cost: one read, one write. `ramplus` also raises the changes of one model alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.methods.sparse import by_set, check_number
from fusion_slerp.methods.task_vector_options import TowardsBase
from fusion_slerp.options import NON_NEGATIVE, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps
    from fusion_slerp.passes.selections import SelectedSum


@dataclass(frozen=True, slots=True, kw_only=True)
class RamOptions(TowardsBase):
    """The options of RAM.

    Attributes:
        epsilon: A model changed an element if it differs by more than this from the base.
    """

    epsilon: float = option(1e-5, NON_NEGATIVE, 0.0, panel="Merging")


@dataclass(frozen=True, slots=True)
class RamParameters:
    """The parameters of one unit.

    Attributes:
        n: Number of models.
        epsilon: The largest difference that is no change.
        factor: Of the merged task vector, in front of the base.
    """

    n: int
    epsilon: float
    factor: float


def ram(p: RamParameters, unit: Unit) -> Steps:
    """Combines the task vectors without measuring them."""
    yield from ()
    return passes.Made(sum_of_changes(p, (1.0,) * p.n), "ram")


def sum_of_changes(p: RamParameters, factors: Sequence[float]) -> SelectedSum:
    """Returns the combination of means of shared changes, and of other changes times their model's factor."""

    def of_set(chosen: Sequence[int]) -> list[float]:
        if len(chosen) == 1:
            return [p.factor * factors[chosen[0]]]
        return [p.factor / len(chosen) for _ in chosen]

    return passes.SelectedSum(passes.above(p.epsilon, p.n), by_set(p.n, of_set))


def parameters_of(options: RamOptions, values: Mapping[str, Any], labels: Sequence[str]) -> RamParameters:
    """Returns the parameters; see `Method.parameters`."""
    n = len(labels) - 1
    check_number(n)
    return RamParameters(n, options.epsilon, 1.0 - options.towards_base)


def used(p: RamParameters) -> range:
    """Returns the indexes of all models and the base."""
    return range(p.n + 1)


def copied(p: RamParameters) -> int | None:
    """Returns the index of the base if nothing is added to it."""
    return None if p.factor else p.n


RAM = Method(
    name="ram",
    n_models=(1, None),
    options=RamOptions,
    parameters=parameters_of,
    used=used,
    copied=copied,
    passes=lambda p: (0, 0),
    steps=ram,
    summary="changes of one model kept, changes of several averaged (RAM)",
    base="needed",
    is_in_span=False,
)
