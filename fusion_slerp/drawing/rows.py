"""The rows of a report's data, one for each tensor, and their groups: by layer and kind of module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fusion_slerp.tensor_names import MODULES, layer_of, module_of

MAX_KINDS = 16
"""Kinds of modules that a heat map shows one by one; of more, it shows the four of `MODULES`."""

MOST_ROWS = 50_000
"""Tensors that a page lists: more would exceed 6 MB. Pictures and counts are of all tensors."""

NONE: Mapping[str, float] = {}

_EXPERT = re.compile(r"(?<=\.)\d+(?=\.|$)")


class TensorRow(NamedTuple):
    """What is known of one tensor.

    Attributes:
        name: Its name in the merged model, or in the first model if there is none.
        n_elements: Number of elements.
        action: How it was made, as `"lerp"`; empty if nothing was made.
        why: The reason, as `"nearly parallel"`; empty if there is none.
        values: The method's options for it, by name, or by name and label: `"t"`, `"weight b"`.
        angles: Degrees by pair of models, as `"a-b"`; pairs without an angle are left out.
        norms: Euclidean norms by label, the merged model's under `"child"`.
        shape: Its dimensions; None if unknown.
        dtype: Its type, as `"bfloat16"`; empty if unknown.
        rows: How its rows were made, in words, if the vocabularies differ; else empty.
    """

    name: str
    n_elements: int
    action: str = ""
    why: str = ""
    values: Mapping[str, float] = NONE
    angles: Mapping[str, float] = NONE
    norms: Mapping[str, float] = NONE
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    rows: str = ""

    @property
    def layer(self) -> int | None:
        """The index of its layer; None outside the layers."""
        layer = layer_of(self.name)
        return None if layer is None else layer[1]


def option_values(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns a tensor's options as `TensorRow` has them: those of single models with the label."""
    found = {}
    for name, value in values.items():
        if isinstance(value, (int, float)):
            found[name] = float(value)
        elif isinstance(value, Mapping):
            found |= {f"{name} {label}": float(each) for label, each in value.items() if each is not None}
    return found


def kind_of(name: str) -> str:
    """Returns a tensor's kind: its name within the layer, with `*` for the number of an expert.

    A bias is of the kind of its weight.
    """
    layer = layer_of(name)
    return _own_kind(name if layer is None else name[len(layer[0]) :].partition(".")[2])


def _own_kind(own: str) -> str:
    """The kind of a tensor by its name within the layer."""
    return _EXPERT.sub("*", own.removesuffix(".weight").removesuffix(".bias"))


class Stack(NamedTuple):
    """The layers of one stack, with its tensors by kind and layer.

    Attributes:
        name: The part of the tensors' names before the layer's number.
        layers: The indexes of its layers, ascending.
        kinds: Its kinds of modules, grouped by module; see `kind_of`.
        modules: The module of each kind.
        cells: The tensors by kind and layer.
    """

    name: str
    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    modules: Mapping[str, str]
    cells: Mapping[tuple[str, int], Sequence[TensorRow]]

    @property
    def shown_kinds(self) -> dict[str, str]:
        """Short names of the kinds: the last part, where that is enough to tell them apart."""
        short = {kind: kind.rpartition(".")[2] for kind in self.kinds}
        counts = Counter(short.values())
        return {kind: last if counts[last] == 1 else kind for kind, last in short.items()}


_Member = tuple[int, str, TensorRow]
"""A tensor of a layer: the layer's index, the tensor's kind and its row."""


def stacks(rows: Iterable[TensorRow]) -> list[Stack]:
    """Returns the stacks of layers, the one with the most elements first."""
    by_stack: dict[str, list[_Member]] = {}
    kinds: dict[str, str] = {}  # layers have tensors of the same names
    for row in rows:
        layer = layer_of(row.name)
        if layer is not None:
            own = row.name[len(layer[0]) :].partition(".")[2]
            kind = kinds.get(own) or kinds.setdefault(own, _own_kind(own))
            by_stack.setdefault(layer[0], []).append((layer[1], kind, row))
    found = sorted(by_stack.items(), key=lambda each: -sum(row.n_elements for *_, row in each[1]))
    return [_stack(name, members) for name, members in found]


def _stack(name: str, members: Sequence[_Member]) -> Stack:
    modules = {kind: module_of(row.name) for kind, row in {kind: row for _, kind, row in members}.items()}
    is_coarse = len(modules) > MAX_KINDS
    cells: dict[tuple[str, int], list[TensorRow]] = {}
    for layer, kind, row in members:
        cells.setdefault((modules[kind] if is_coarse else kind, layer), []).append(row)
    if is_coarse:
        modules = {module: module for module in modules.values()}
    kinds = sorted(modules, key=lambda kind: MODULES.index(modules[kind]))
    layers = sorted({layer for layer, *_ in members})
    return Stack(name, tuple(layers), tuple(kinds), modules, cells)


def significant(value: float | None, digits: int = 6) -> float | None:
    """Returns a number rounded to some significant digits: what a page needs of it."""
    return None if value is None else float(f"{value:.{digits}g}")


def columns_of(rows: Sequence[TensorRow]) -> dict[str, Any]:
    """Returns the first `MOST_ROWS` as columns, in a third of the bytes: lists of values by name."""
    rows = rows[:MOST_ROWS]
    columns: dict[str, list[Any]] = {
        "name": [row.name for row in rows],
        "layer": [row.layer for row in rows],
        "made by": [row.action for row in rows],
        "why": [row.why for row in rows],
        **_by_key("value", [row.values for row in rows]),
        "elements": [row.n_elements for row in rows],
        **_by_key("angle", [row.angles for row in rows]),
        **_by_key("norm", [row.norms for row in rows]),
        "shape": [None if row.shape is None else "×".join(map(str, row.shape)) for row in rows],
        "type": [row.dtype for row in rows],
        "rows": [row.rows for row in rows],
    }
    return {name: values for name, values in columns.items() if any(v not in (None, "") for v in values)}


def _by_key(prefix: str, values: Sequence[Mapping[str, float]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for each in values for key in each)
    return {f"{prefix} {key}": [significant(each.get(key)) for each in values] for key in keys}
