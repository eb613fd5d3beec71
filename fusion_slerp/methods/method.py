"""The interface of a merge method: its options, and a generator that processes one unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_slerp.passes.protocols import Steps


class UnusableError(ValueError):
    """The options give a tensor invalid parameters; the message says why.

    Attributes:
        fix: What to do, for the problem's `Fix:`.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


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
        steps: The generator that processes one unit.
        summary: A short description for the model card.
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
        """The number of models that it merges, in words."""
        least, most = self.n_models
        if least == most:
            return f"exactly {least}"
        return f"at least {least}" if most is None else f"{least} to {most}"
