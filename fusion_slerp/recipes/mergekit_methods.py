"""mergekit's methods and ours: which of our options each of their parameters sets.

Source: https://github.com/arcee-ai/mergekit, release 0.1.5, merge_methods/: names, levels and defaults of the
parameters, method by method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fusion_slerp.methods import METHODS, Method

REQUIRED: Any = object()
"""The default of a parameter that a recipe must state."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method of mergekit.

    Attributes:
        name: mergekit's.
        option: Our option of the method.
        default: mergekit's default, as our option's value; REQUIRED without one.
        is_per_model: Whether a model may have its own value. mergekit ignores the others under a model.
        values: Our option's value by mergekit's, where these differ.
    """

    name: str
    option: str
    default: Any = REQUIRED
    is_per_model: bool = False
    values: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def is_required(self) -> bool:
        """Whether a recipe must state it."""
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A method of mergekit and ours.

    Attributes:
        name: mergekit's name.
        ours: Our name.
        parameters: Those with an option of ours.
        has_base_as_a: Whether `base_model` is one of the two models that are merged, our model a.
        per_slice: Models in a slice, not counting a base; None for as many as the method takes.
        noted: Parameters that ours does without, and why.
    """

    name: str
    ours: str
    parameters: tuple[Parameter, ...] = ()
    has_base_as_a: bool = False
    per_slice: int | None = None
    noted: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        """Our method."""
        return METHODS[self.ours]

    @property
    def takes_base(self) -> bool:
        """Whether `base_model` is an ancestor and not one of the models that are merged."""
        return self.method.base != "none" and not (self.has_base_as_a or self.method.base_is_target)

    @property
    def names(self) -> list[str]:
        """mergekit's names of the parameters that have an effect here."""
        return [each.name for each in self.parameters]


WEIGHT = Parameter("weight", "weight", is_per_model=True)
DENSITY = Parameter("density", "density", 1.0, is_per_model=True)
GAMMA = Parameter("gamma", "gamma", 0.01, is_per_model=True)
SPREAD = Parameter("epsilon", "epsilon", 0.15, is_per_model=True)
NORMALIZE = Parameter("normalize", "normalize", True)
RESCALE = Parameter("rescale", "rescale", True)
LAMBDA = Parameter("lambda", "scaling_factor", 1.0)
T = Parameter("t", "t")
THRESHOLD = Parameter("epsilon", "epsilon", 1e-5)
OWN_RULE = "not needed: the mean is computed to its error bound, whatever the number of steps"


def _task_vectors(name: str, *more: Parameter, normalize: bool, rescale: bool | None = None) -> Counterpart:
    """A method that adds weighted differences from a base."""
    switches = [replace(NORMALIZE, default=normalize)]
    switches += [] if rescale is None else [replace(RESCALE, default=rescale)]
    return Counterpart(name, name, (WEIGHT, *more, *switches, LAMBDA))


_ALL = (
    Counterpart("slerp", "slerp", (T,), has_base_as_a=True),
    Counterpart(
        "nuslerp", "slerp", (replace(WEIGHT, option="t"),)
    ),  # read by `nuslerp`: two weights make a t
    Counterpart("linear", "linear", (WEIGHT, NORMALIZE)),
    _task_vectors("task_arithmetic", normalize=False),
    Counterpart(
        "multislerp",
        "multislerp",
        (WEIGHT, Parameter("normalize_weights", "normalize", True), Parameter("eps", "epsilon", 1e-8)),
    ),
    Counterpart("karcher", "karcher", noted={"max_iter": OWN_RULE, "tol": OWN_RULE}),
    Counterpart(
        "model_stock",
        "model_stock",
        (Parameter("filter_wise", "granularity", "tensor", values={True: "row", False: "tensor"}),),
    ),
    _task_vectors("ties", DENSITY, normalize=True, rescale=False),
    _task_vectors("dare_linear", DENSITY, normalize=False, rescale=True),
    _task_vectors("dare_ties", DENSITY, normalize=False, rescale=True),
    _task_vectors("della", DENSITY, SPREAD, normalize=True, rescale=True),
    _task_vectors("della_linear", DENSITY, SPREAD, normalize=False, rescale=True),
    _task_vectors("breadcrumbs", DENSITY, GAMMA, normalize=False, rescale=False),
    _task_vectors("breadcrumbs_ties", DENSITY, GAMMA, normalize=False, rescale=False),
    Counterpart("sce", "sce", (Parameter("select_topk", "select_topk", 1.0),)),
    Counterpart("ram", "ram", (THRESHOLD,)),
    Counterpart(
        "ramplus_tl",
        "ramplus",
        (Parameter("r", "r", 0.1), Parameter("alpha", "alpha", 0.2), THRESHOLD),
    ),
    Counterpart("nearswap", "nearswap", (T,)),
    Counterpart(
        "passthrough", "passthrough", (Parameter("scale", "scale", 1.0, is_per_model=True),), per_slice=1
    ),
)

COUNTERPARTS = {each.name: each for each in _ALL if each.ours in METHODS}
"""By mergekit's name."""

FLATTEN, ROW_WISE = "nuslerp_flatten", "nuslerp_row_wise"

KNOWN_PARAMETERS = (
    *("embed_slerp", "int8_mask", FLATTEN, ROW_WISE, "max_iter", "tol"),
    *dict.fromkeys(parameter.name for each in _ALL for parameter in each.parameters),
)
"""Parameters of all of mergekit's methods, and those that older versions read."""


def of_our_method(name: str) -> Counterpart | None:
    """Returns the first of mergekit's methods that ours corresponds to; None if there is none."""
    return next((each for each in COUNTERPARTS.values() if each.ours == name), None)
