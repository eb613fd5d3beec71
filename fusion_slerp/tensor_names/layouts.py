"""The layout of a tensor that holds matrices of all experts, spelled by its axes.

`e (p i) h` is a tensor of one block for each expert e, of p matrices below each other (gate and up, say),
each of i rows and h columns; in `e h (i p)` the matrices are transposed, and their columns alternate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from typing import NamedTuple

Sizes = Mapping[str, int]
"""The length of each axis: e experts, p matrices of one expert, i inner elements, h hidden ones."""

Strides = Mapping[str, int]
"""Elements from one index of each axis to the next."""

OUTWARD = frozenset({"down_proj", "output_linear"})
"""Matrices whose rows are hidden elements; the rows of all others are inner ones."""


class Fused(NamedTuple):
    """A tensor that holds a matrix (or bias) of all experts, or several of each.

    Attributes:
        module: The end of its module's name: `experts`.
        rest: Its name in that module.
        parts: The matrices in it, as tensors of one expert name them.
        axes: Its layout.
    """

    module: str
    rest: str
    parts: tuple[str, ...]
    axes: str

    @property
    def end(self) -> str:
        """The end of its name."""
        return f".{self.module}.{self.rest}"

    @property
    def kind(self) -> str:
        """Whether it holds matrices or biases."""
        return "weight" if {"i", "h"} <= set(self.axes) else "bias"

    @property
    def order(self) -> tuple[str, ...]:
        """The axes of a matrix in a tensor of its own."""
        rows_first = "hi" if self.parts[0] in OUTWARD else "ih"
        return tuple(axis for axis in rows_first if axis in self.axes)

    @property
    def inner(self) -> tuple[str, ...]:
        """The axes within one expert, in the order in which they are stored."""
        return tuple(axis for group in _groups(self.axes) for axis in group if axis != "e")

    @property
    def is_in_boxes(self) -> bool:
        """Whether each matrix is contiguous, as in a tensor of its own."""
        return tuple(axis for axis in self.inner if axis != "p") == self.order and (
            self.inner[0] == "p" or len(self.parts) == 1
        )

    def sizes(self, shape: Sequence[int], known: Sizes) -> Sizes | None:
        """Returns the length of each axis of a tensor; None if its shape contradicts the layout.

        Args:
            shape: The tensor's.
            known: Lengths that are known.
        """
        groups = _groups(self.axes)
        if len(groups) != len(shape):
            return None
        sizes = {**known, "p": len(self.parts)}
        for group, length in zip(groups, shape, strict=True):
            unknown = [axis for axis in group if axis not in sizes]
            given = prod(sizes[axis] for axis in group if axis in sizes)
            if len(unknown) > 1 or not given or not length or length % given:
                return None
            if not unknown and length != given:
                return None
            sizes |= dict.fromkeys(unknown, length // given)
        return sizes

    def strides(self, of_shape: Sequence[int], sizes: Sizes) -> Strides:
        """Returns the stride of each axis.

        Args:
            of_shape: The strides of the tensor's own dimensions.
            sizes: The length of each axis.
        """
        strides = {}
        for group, step in zip(_groups(self.axes), of_shape, strict=True):
            for axis in reversed(group):
                strides[axis] = step
                step *= sizes[axis]
        return strides

    def block_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Returns the dimensions of one expert's part."""
        groups = [[axis for axis in group if axis != "e"] for group in _groups(self.axes)]
        return tuple(prod(sizes[axis] for axis in group) for group in groups if group)


@cache
def _groups(axes: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^)]*\)|\S+", axes))
