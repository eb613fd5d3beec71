"""Slices: models whose layers are repeated or left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fusion_slerp.errors import FusionSlerpError
from tests.architectures.checks import config_of, loaded, merged, named_or_wrong
from tests.architectures.shrinking import LAYERS
from tests.architectures.subjects import Subject, Wrong, same
from tests.architectures.weights import Weights, weights

Ranges = Sequence[tuple[int, int]]
"""First layers, and those one past the last."""

REPEATED: Ranges = ((0, LAYERS - 1), (1, LAYERS))
DROPPED: Ranges = ((1, LAYERS),)


def check_sliced(subject: Subject, ranges: Ranges, name: str) -> str:
    """The child's layers are those of the given ranges: each as in the unsliced child, none made up."""
    slices = [{"a": list(each), "b": list(each)} for each in ranges]
    try:
        child = merged(subject, name, subject.a, subject.b, slices=slices)
    except FusionSlerpError as error:
        names = {*_keys(config_of(subject.a)), "stacks of layers"}
        raise named_or_wrong(error, names, "a config key") from None
    loaded(subject, child)
    whole, made = weights(subject.folder / "equal"), weights(child)
    sources = [layer for first, end in ranges for layer in range(first, end)]
    sliced = [_of_layers(whole, stack, sources) for stack in _stacks(whole)]
    expected = next((each for each in sliced if each.keys() == made.keys()), None)
    if expected is None:
        raise Wrong("has other tensors than these layers of any stack")
    if wrong := [tensor for tensor in expected if not same(expected[tensor], made[tensor])]:
        raise Wrong(f"not the layer of the given range: {', '.join(wrong[:3])}")
    return ""


def _keys(config: Mapping[str, Any]) -> set[str]:
    """All keys of a config, at every level."""
    inside = [_keys(value) for value in config.values() if isinstance(value, dict)]
    return set(config).difference({"dtype", "layers"}).union(*inside)


def _stacks(names: Iterable[str]) -> list[str]:
    """The beginnings of names before the number of a layer, of stacks with as many layers as are sliced."""
    numbers: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if first is not None:
            numbers.setdefault(".".join(parts[:first]) + ".", set()).add(parts[first])
    return [stack for stack, found in numbers.items() if len(found) == LAYERS]


def _of_layers(whole: Weights, stack: str, sources: Sequence[int]) -> dict[str, np.ndarray]:
    """The tensors of a model whose stack consists of these layers of another one's."""
    expected: dict[str, np.ndarray] = {}
    for name, value in whole.items():
        number, _, after = name.removeprefix(stack).partition(".")
        if not name.startswith(stack):
            expected[name] = value
            continue
        for i, source in enumerate(sources):
            if source == int(number):
                expected[f"{stack}{i}.{after}"] = value
    return expected
