"""Task arithmetic: adds the models' differences from their common base.

    result = base + scaling_factor (w_a (a - base) + w_b (b - base) + ...)
    with `normalize`, the weights are divided by their sum

A difference from the base is a task vector: what fine-tuning changed. Sums of task vectors combine abilities;
a negative weight unlearns one. With weights 1 and three models `chat`, `base` and a further pre-trained one,
it makes a chat vector: give the base as `base` and the further one and `chat` as models, each with weight 1.

What the evidence says: in the comparison of O. Hitit et al., 2025 (https://arxiv.org/abs/2511.21437), it was
the only one of six methods that gained reliably for large language models; those that handle interference of
elements or subspaces mostly lost. Sums of several task vectors with weight 1 overshoot: scaling factors from
0.3 to 0.5 are usual.

Source: G. Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, https://arxiv.org/abs/2212.04089;
weights per model, `normalize` and `lambda` (here `scaling_factor`) are those of mergekit's `task_arithmetic`;
chat vectors: S.-C. Huang et al., ACL 2024, https://arxiv.org/abs/2310.04799. mergekit computes in the models'
type, so that bfloat16 models are rounded several times; here the sum over models and base is exact and
rounded once. Weights that sum to zero are refused with `normalize`, where mergekit divides by 1.

Cost: one read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_slerp import passes
from fusion_slerp.methods import span
from fusion_slerp.methods.method import BASE, Method, Unit
from fusion_slerp.methods.task_vector_options import TaskVectors

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArithmeticOptions(TaskVectors):
    """The options of task arithmetic, all of them shared with other methods."""


@dataclass(frozen=True, slots=True)
class TaskArithmeticParameters:
    """The parameters of one unit.

    Attributes:
        coefficients: Of the models and the base; the base takes no part where its own is zero.
    """

    coefficients: tuple[float, ...]


def task_arithmetic(p: TaskArithmeticParameters, unit: Unit) -> Steps:
    """Adds task vectors without measuring them."""
    yield from ()
    return passes.Made(passes.WeightedSum(p.coefficients), "task_arithmetic")


def _parameters(
    options: TaskArithmeticOptions, values: Mapping[str, Any], labels: Sequence[str]
) -> TaskArithmeticParameters:
    weights = span.weights_of(values, labels)
    if options.normalize and weights:
        weights = span.shares_of(weights, labels)
    scaled = [options.scaling_factor * weight for weight in weights]
    every = span.of_task_vectors(scaled, options.towards_base)
    return TaskArithmeticParameters(every if BASE in labels else every[:-1])


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    n_models=(1, None),
    options=TaskArithmeticOptions,
    parameters=_parameters,
    used=lambda p: span.used(p.coefficients),
    copied=lambda p: span.copied(p.coefficients),
    passes=lambda p: (0, 0),
    steps=task_arithmetic,
    summary="sum of task vectors (task_arithmetic)",
    base="needed",
)
