"""Every registered method, with models to merge and options that have an effect, from its declarations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declaration, declared
from fusion_slerp.settings.labels import labels
from tests.models import CONFIG, tiny_tensors, write_checkpoint

N_MODELS = 3
"""Where the method takes as many."""

LAYERS = 2
DELTA = 0.05
"""Of a model's elements, which are normally distributed, from those of the base; in part common to all."""

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)

NEEDS_BASE = ("towards_base",)
"""Options that have an effect only with a base."""


@dataclass(frozen=True)
class Way:
    """A method with or without a base.

    Attributes:
        method: The method.
        has_base: Whether a base is given.
    """

    method: Method
    has_base: bool

    def __str__(self) -> str:
        return self.method.name + " without a base" * (self.method.base == "optional" and not self.has_base)


WAYS = [
    Way(method, has_base)
    for method in METHODS.values()
    for has_base in {"none": (False,), "optional": (True, False), "needed": (True,)}[method.base]
]
each_way = pytest.mark.parametrize("way", WAYS, ids=str)


def n_models(method: Method) -> int:
    """The number of models that a test merges by a method."""
    least, most = method.n_models
    return max(least, min(N_MODELS, most or N_MODELS))


def effective_options(method: Method) -> dict[str, Any]:
    """An example of every option of the method."""
    given = {name: declaration(each).example for name, each in declared(method.options).items()}
    return {"method": method.name} | {name: _for_labels(value, method) for name, value in given.items()}


def _for_labels(example: Any, method: Method) -> Any:
    """An example, for the models that are merged: their labels may differ from those in it."""
    names = labels(n_models(method))
    if not isinstance(example, Mapping):
        return example
    first = next(iter(example.values()))
    return {
        label: example.get(label, f"model {label}" if isinstance(first, str) else first) for label in names
    }


@dataclass(frozen=True)
class Family:
    """Models of two layers near their base, in one folder under their labels.

    Attributes:
        models: In their order.
        base: Their ancestor.
    """

    models: list[Path]
    base: Path

    def call(self, way: Way) -> Call:
        """The merge in a way."""
        options = effective_options(way.method)
        if not way.has_base:
            options = {name: value for name, value in options.items() if name not in NEEDS_BASE}
        base = {"base": self.base} if way.has_base else {}
        return Call(self.models[: n_models(way.method)], {**base, **options})


@dataclass(frozen=True)
class Call:
    """The arguments of a merge.

    Attributes:
        models: The models.
        options: The base and the options.
    """

    models: list[Path]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, Path]:
        """The folders by label."""
        base = {"base": self.options["base"]} if "base" in self.options else {}
        return dict(zip(labels(len(self.models)), self.models, strict=True)) | base


def write_family(
    folder: Path, n: int = N_MODELS, more: Mapping[str, tuple[int, ...]] | None = None, dtype: str = "float32"
) -> Family:
    """Writes models `a`, `b`, ... and their base.

    Args:
        folder: Where.
        n: Number of models.
        more: Shapes of further tensors, by name.
        dtype: Of all tensors but one of integers.
    """
    shapes = {f"model.layers.{i}.mlp.down_proj.weight": (4, 8) for i in range(LAYERS)} | dict(more or {})
    rng = np.random.default_rng(7)
    of_base = tiny_tensors(0) | {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    common = {key: rng.standard_normal(x.shape) for key, x in of_base.items()}
    folders = []
    for name in [*labels(n), "base"]:
        size = 0.0 if name == "base" else DELTA
        tensors = {
            key: (x + size * (common[key] + rng.standard_normal(x.shape))).astype(dtype)
            for key, x in of_base.items()
        }
        config = CONFIG | {"num_hidden_layers": LAYERS}
        tensors["model.ids"] = np.arange(3)
        folders.append(write_checkpoint(folder / name, tensors=tensors, config=config))
    return Family(folders[:-1], folders[-1])
