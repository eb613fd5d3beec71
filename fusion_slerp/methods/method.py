"""The interface of a merge method: its options, and a generator that processes one unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fusion_slerp import passes

if TYPE_CHECKING:
    from fusion_slerp.passes.many import AtOnce
    from fusion_slerp.passes.protocols import Steps


class UnusableError(ValueError):
    """The options give a tensor invalid parameters; the message says why.

    Attributes:
        fix: What to do, for the problem's `Fix:`.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


BASE = "base"
"""The label of the models' common ancestor, in methods that take one; always the last."""

Base = Literal["none", "optional", "needed"]
"""Whether a method takes the models' common ancestor."""


class Unit(NamedTuple):
    """The vectors that a method's generator processes: a tensor, or a part with statistics of its own.

    Attributes:
        name: The name of the merged model's tensor.
        n_elements: Number of elements of each vector that take part.
        width: Elements of a row, along the first dimension; all of them in a vector.
        has_one_order: Whether a chunk has the same elements when it is measured and when it is written: not
            so for a matrix of a tensor in which matrices take turns.
    """

    name: str
    n_elements: int
    width: int
    has_one_order: bool = True


@dataclass(frozen=True, slots=True)
class WithoutBase:
    """In place of a method's parameters, for rows or tensors that several models have and the base lacks.

    Their result is the plain average: without the base there are no task vectors.

    Attributes:
        n: Number of models.
    """

    n: int


@dataclass(frozen=True, slots=True)
class Method:
    """A method: one file, one value of this class, one line in the registry.

    Attributes:
        name: As users write it.
        n_models: The fewest and the most models that it merges, not counting a base; None for any number.
        options: The dataclass that declares its options.
        parameters: Takes the options, one tensor's values of those with a schedule (by label, if each
            model has its own), and the labels of the sources in order; returns the parameters of a unit,
            an immutable value. Raises UnusableError.
        used: Takes the parameters; returns the indexes of the sources that take part.
        copied: Takes the parameters; returns the index of the source whose bytes are the result, or None.
        passes: Takes the parameters; returns the number of passes over the sources before the one that
            writes: the minimum, and the maximum that the values may require.
        steps: Takes the parameters and the unit; returns the generator that processes it. The base, if there
            is one, is its last source.
        summary: A short description for the model card.
        base: Whether it takes the models' ancestor, whose label is `base`.
        base_is_target: Whether a base serves the option `towards_base` alone, without which it would have no
            effect.
        is_in_span: Whether each result is a weighted sum of the sources, with the same coefficients for all
            elements of a unit.
        needs_rows: Whether it must see whole rows at a time, up to the elements of a chunk.
        is_indexed: Whether the result of an element depends on its index in the merged model's tensor.
        at_once: Takes the parameters; returns what decides many units by one call, as `steps` would decide
            each, if the units are rows. None if the method has no such function.
    """

    name: str
    n_models: tuple[int, int | None]
    options: type
    parameters: Callable[[Any, Mapping[str, Any], Sequence[str]], Any]
    used: Callable[[Any], Sequence[int]]
    copied: Callable[[Any], int | None]
    passes: Callable[[Any], tuple[int, int]]
    steps: Callable[[Any, Unit], Steps]
    summary: str
    base: Base = "none"
    base_is_target: bool = False
    is_in_span: bool = True
    needs_rows: bool = False
    is_indexed: bool = False
    at_once: Callable[[Any], AtOnce] | None = None

    def start(self, parameters: Any, unit: Unit) -> Steps:
        """Returns the generator for a unit; the parameters may be `WithoutBase`."""
        return _average(parameters) if isinstance(parameters, WithoutBase) else self.steps(parameters, unit)

    def many(self, parameters: Any) -> AtOnce | None:
        """Returns `at_once`; the parameters may be `WithoutBase`."""
        if self.at_once is None or isinstance(parameters, WithoutBase):
            return None
        return self.at_once(parameters)

    def n_passes(self, parameters: Any) -> tuple[int, int]:
        """Returns `passes`; the parameters may be `WithoutBase`."""
        return (0, 0) if isinstance(parameters, WithoutBase) else self.passes(parameters)

    def uses_base(self, options: Any) -> bool:
        """Whether a base has an effect on a merge with these options of the method."""
        return self.base != "none" and (not self.base_is_target or options.towards_base > 0)

    def takes(self, n: int) -> bool:
        """Whether it merges n models."""
        least, most = self.n_models
        return least <= n and (most is None or n <= most)

    @property
    def class_name(self) -> str:
        """Its class for FusionBench, as the package exports it."""
        words = self.name.split("_")
        return f"{''.join(word.capitalize() for word in words)}ForCausalLM"

    @property
    def models_text(self) -> str:
        """The number of models that it merges, in words."""
        least, most = self.n_models
        if least == most:
            return f"exactly {least}"
        return f"at least {least}" if most is None else f"{least} to {most}"


def _average(p: WithoutBase) -> Steps:
    yield from ()
    return passes.Made(passes.WeightedSum((1.0 / p.n,) * p.n), "average: no base")
