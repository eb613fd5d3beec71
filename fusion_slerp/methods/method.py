"""What a method of merging is to the rest: its options, and a generator that works on one unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


class UnusableError(ValueError):
    """The options give a tensor no parameters that the method can work with; the message says why."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method: one file, one value of this class, one line in the registry.

    Attributes:
        name: As users write it.
        n_models: The fewest and the most models that it merges, a base not counted; None for any number.
        options: The dataclass that declares its options.
        parameters: From the options, the values of those with a schedule for one tensor (of an option per
            model, by label), and the labels of the sources in their order, to the parameters of a unit: an
            immutable value. Raises UnusableError.
        used: From parameters to the indexes of the sources that take part.
        copied: From parameters to the index of the source whose bytes are the result; None if there is none.
        passes: From parameters to how many passes over the sources come before the one that writes: those
            that are certain, and the most that the values may ask for.
        steps: The generator that works on one unit.
        summary: What it is, in some words, for the model card.
        takes_base: Whether it needs the models' ancestor, whose label is `base`.
    """

    name: str
    n_models: tuple[int, int | None]
    options: type
    parameters: Callable[[Any, Mapping[str, Any], Sequence[str]], Any]
    used: Callable[[Any], Sequence[int]]
    copied: Callable[[Any], int | None]
    passes: Callable[[Any], tuple[int, int]]
    steps: Callable[[Any], Steps]
    summary: str
    takes_base: bool = False

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
        """How many models it merges, in words."""
        least, most = self.n_models
        if least == most:
            return f"exactly {least}"
        return f"at least {least}" if most is None else f"{least} to {most}"
