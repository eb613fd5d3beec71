"""The options that the methods on task vectors share. A task vector is a model minus its base.

A method's options inherit from the classes here, and redeclare an option whose default differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion_slerp.options import BOOLEAN, FINITE, UNIT_INTERVAL, option

WEIGHTS = {"a": 0.4, "b": 0.6}


@dataclass(frozen=True, slots=True, kw_only=True)
class TowardsBase:
    """An option of methods that take a base.

    Attributes:
        towards_base: Interpolate the result towards the base, which must be given: 0 leaves it unchanged, 1
            is the base.
    """

    towards_base: float = option(0.0, UNIT_INTERVAL, 0.3, panel="Merging", records_default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights(TowardsBase):
    """An option of methods that weight models.

    Attributes:
        weight: Weight of each model: one number for all, a gradient or entries by name as for `t` of SLERP,
            or a mapping from labels to these: `{"a": 0.4, "b": [0, 0.6]}`; models that it omits weigh 1.
    """

    weight: Any = option(
        1.0, FINITE, WEIGHTS, panel="Merging", is_schedule=True, is_per_model=True, flag="-w"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVectors(Weights):
    """The options of sums of task vectors.

    Attributes:
        scaling_factor: Factor of the merged task vector before the base is added; mergekit's `lambda`.
        normalize: Divide each sum by the sum of the weights that take part in it.
    """

    scaling_factor: float = option(1.0, FINITE, 1.0, panel="Merging")
    normalize: bool = option(False, BOOLEAN, False, panel="Merging")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse(TaskVectors):
    """The options of methods that take a part of each task vector's elements.

    Attributes:
        density: The part that is taken, in [0, 1]: one for all models, or in the forms of `weight`.
        rescale: Multiply what is taken from each task vector so that the sum of its magnitudes is that of the
            whole one, tensor by tensor.
    """

    density: Any = option(1.0, UNIT_INTERVAL, 0.5, panel="Merging", is_schedule=True, is_per_model=True)
    rescale: bool = option(False, BOOLEAN, False, panel="Merging")


def of_each(values: Mapping[str, Any], name: str, labels: list[str]) -> tuple[float, ...]:
    """Returns the values of an option by model, in order."""
    return tuple(values[name][label] for label in labels)
