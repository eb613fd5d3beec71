"""The tensors of one model, unchanged or scaled: for stacking layers of several models by slices.

    result = scale · x                    scale = 1: x's bytes

Without slices it takes one model, to write it in another type, with another vocabulary or in other files.
With slices it stacks layers ("frankenmerges"): each slice names one model, and the layers are renumbered.

    slices:
      - {a: [0, 24]}
      - {b: [8, 32]}

Source: `passthrough` of mergekit, https://github.com/arcee-ai/mergekit; C. Goddard et al., "Arcee's
MergeKit", EMNLP 2024, https://arxiv.org/abs/2403.13257. Stacking with training afterwards: S. Kim et al.,
"SOLAR 10.7B", NAACL 2024, https://arxiv.org/abs/2312.15166. We differ in copying bytes instead of loading
tensors, in rounding a scaled element once (to the value of its type nearest to the float64 product), in
resolving `scale` by the name of the merged model's tensor, and in giving the merged model the head of its
last slice's model, even if all models tie their heads to their embeddings.

Cost: one read, one write. Where the types agree, the bytes are read into the memory from which they are
written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods.method import Method, Unit
from fusion_slerp.options import FINITE, option

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class PassthroughOptions:
    """The options of `passthrough`.

    Attributes:
        scale: Factor of each model's tensors: one number for all, a gradient or entries by name as for `t` of
            SLERP, or a mapping from labels to these: `{"b": [0.5, 1]}`. 1 copies the bytes; models that it
            omits have 1.
    """

    scale: Any = option(1.0, FINITE, {"b": 0.5}, panel="Merging", is_schedule=True, is_per_model=True)


@dataclass(frozen=True, slots=True)
class PassthroughParameters:
    """The parameters of one unit.

    Attributes:
        scale: Its factor; 1 copies.
    """

    scale: float


def passthrough(p: PassthroughParameters, unit: Unit) -> Steps:
    """Scales one vector without measuring it."""
    yield from ()
    return passes.Made(passes.WeightedSum((p.scale,)), "scaled")


def _parameters(
    options: PassthroughOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> PassthroughParameters:
    return PassthroughParameters(values["scale"][labels[0]])


PASSTHROUGH = Method(
    name="passthrough",
    n_models=(1, 1),
    options=PassthroughOptions,
    parameters=_parameters,
    used=lambda p: [0],
    copied=lambda p: 0 if p.scale == 1 else None,
    passes=lambda p: (0, 0),
    steps=passthrough,
    summary="the layers of one model, or of several stacked (passthrough)",
)
