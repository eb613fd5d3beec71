"""Angles, norms and values over depth: what the heat maps and lines of a report show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, log10, sqrt
from typing import Any

from fusion_slerp.drawing.rows import Stack, TensorRow, significant
from fusion_slerp.tensor_names import MODULES, layer_of

TOP_SHARE = 0.98
"""Share of a heat map's cells within its scale: a few outliers do not flatten the rest."""

Cells = list[list[float | None]]
"""Values by kind and layer."""


def mean_angle(rows: Sequence[TensorRow], pair: str) -> float | None:
    """Returns the mean of angles, weighted by elements; None without any."""
    measured = [row for row in rows if pair in row.angles]
    weight = sum(row.n_elements for row in measured)
    return sum(row.angles[pair] * row.n_elements for row in measured) / weight if weight else None


def norm(rows: Sequence[TensorRow], label: str) -> float | None:
    """Returns the Euclidean norm of several tensors as one; None if one of them was not measured."""
    if not rows or any(label not in row.norms for row in rows):
        return None
    return sqrt(sum(row.norms[label] ** 2 for row in rows))


def cells(stack: Stack, value: Callable[[Sequence[TensorRow]], float | None]) -> Cells:
    """Returns a value for each kind and layer of a stack; None where there is none."""
    return [
        [significant(value(stack.cells.get((kind, layer), ()))) for layer in stack.layers]
        for kind in stack.kinds
    ]


def angles(rows: Sequence[TensorRow], of: Sequence[Stack], pairs: Sequence[str]) -> dict[str, Any] | None:
    """Returns the heat maps of the angles, with one scale for all; None if no tensor has an angle."""
    pairs = [pair for pair in pairs if any(pair in row.angles for row in rows)]
    if not pairs:
        return None
    maps = [
        {
            **_axes(stack),
            "cells": {pair: cells(stack, lambda some, p=pair: mean_angle(some, p)) for pair in pairs},
        }
        for stack in of
    ]
    outside = [row for row in rows if layer_of(row.name) is None and row.angles]
    values = [
        v
        for each in maps
        for table in each["cells"].values()
        for line in table
        for v in line
        if v is not None
    ]
    values += [row.angles[pair] for row in outside for pair in pairs if pair in row.angles]
    return {
        "pairs": {pair: _of_pair(rows, pair) for pair in pairs},
        "scale": scale(values),
        "stacks": maps,
        "outside": [
            {
                "name": row.name,
                "elements": row.n_elements,
                "angles": {pair: significant(each) for pair, each in row.angles.items()},
            }
            for row in outside
        ],
    }


def _of_pair(rows: Sequence[TensorRow], pair: str) -> dict[str, Any]:
    measured = [row for row in rows if pair in row.angles]
    largest = max(measured, key=lambda row: row.angles[pair])
    return {
        "mean": significant(mean_angle(measured, pair)),
        "largest": significant(largest.angles[pair]),
        "largest_in": largest.name,
        "tensors": len(measured),
    }


def _axes(stack: Stack) -> dict[str, Any]:
    shown = stack.shown_kinds
    return {
        "stack": stack.name,
        "layers": list(stack.layers),
        "kinds": [
            {"kind": kind, "label": shown[kind], "module": stack.modules[kind]} for kind in stack.kinds
        ],
    }


def scale(values: Sequence[float]) -> dict[str, Any]:
    """Returns a scale that follows its values: from 0 unless all of them are far from it, with round ends."""
    ordered = sorted(values)
    top = ordered[min(len(ordered) - 1, int(TOP_SHARE * len(ordered)))]
    bottom = ordered[0] if ordered[0] > top / 2 else 0.0
    step = _step((top - bottom) or top or 1.0)
    low, high = floor(bottom / step) * step, ceil(top / step) * step
    high = high if high > low else low + step
    return {"low": significant(low), "high": significant(high), "is_open": ordered[-1] > high * (1 + 1e-9)}


def _step(span: float) -> float:
    """A round number, such that about five to ten of them make up the span."""
    size = 10.0 ** floor(log10(span))
    return next(size * factor for factor in (0.1, 0.2, 0.5, 1.0) if span / (size * factor) <= 10)


def norms(of: Sequence[Stack], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the norms over depth by module, for the stacks and labels that have any."""
    found = []
    for stack in of:
        modules = {}
        for module in MODULES:
            members = [_members(stack, module, layer) for layer in stack.layers]
            lines = {label: [significant(norm(some, label)) for some in members] for label in labels}
            lines = {label: line for label, line in lines.items() if any(v is not None for v in line)}
            if lines:
                modules[module] = lines
        if modules:
            found.append({"stack": stack.name, "layers": list(stack.layers), "modules": modules})
    return found


def _members(stack: Stack, module: str, layer: int) -> list[TensorRow]:
    """The tensors of a module in a layer, of those that were measured at all."""
    kinds = [kind for kind in stack.kinds if stack.modules[kind] == module]
    return [row for kind in kinds for row in stack.cells.get((kind, layer), ()) if row.norms]


def values(rows: Sequence[TensorRow], of: Sequence[Stack]) -> list[dict[str, Any]]:
    """Returns the options that the method takes for each tensor: a constant, or lines over depth."""
    options = dict.fromkeys(name for row in rows for name in row.values)
    return [_option(name, rows, of) for name in options]


def _option(name: str, rows: Sequence[TensorRow], of: Sequence[Stack]) -> dict[str, Any]:
    every = {row.values[name] for row in rows if name in row.values}
    if len(every) == 1:
        return {"option": name, "constant": every.pop()}
    outside = {row.name: row.values[name] for row in rows if name in row.values and row.layer is None}
    return {"option": name, "outside": outside, "stacks": [option_lines(name, stack) for stack in of]}


def option_lines(name: str, stack: Stack) -> dict[str, Any]:
    """Returns an option's values by layer; kinds with the same values share a line."""
    by_line: dict[tuple[float | None, ...], list[str]] = {}
    for kind, line in zip(stack.kinds, cells(stack, lambda some: _mean(some, name)), strict=True):
        if any(value is not None for value in line):
            by_line.setdefault(tuple(line), []).append(kind)
    found = [{"kinds": _named(kinds, stack), "values": list(line)} for line, kinds in by_line.items()]
    return {"stack": stack.name, "layers": list(stack.layers), "lines": found}


def _mean(rows: Sequence[TensorRow], name: str) -> float | None:
    given = [row.values[name] for row in rows if name in row.values]
    return sum(given) / len(given) if given else None


def _named(kinds: Sequence[str], stack: Stack) -> str:
    """Kinds in words: whole modules by their names."""
    if len(kinds) == len(stack.kinds):
        return "all modules"
    shown, left, words = stack.shown_kinds, list(kinds), []
    for module in MODULES:
        own = [kind for kind in stack.kinds if stack.modules[kind] == module]
        if own and set(own) <= set(left):
            words.append(module)
            left = [kind for kind in left if kind not in own]
    return ", ".join([*words, *(shown[kind] for kind in left)])
