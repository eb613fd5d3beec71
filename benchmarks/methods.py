"""Every method on three fine-tunes and their base: our commands and mergekit's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import contenders
from processes import Command

from fusion_slerp.methods import METHODS
from fusion_slerp.options import declared

OWN_OPTIONS: dict[str, dict[str, Any]] = {
    "sce": {"select_topk": 0.5},
    "slerp": {"t": 0.4},
    "nearswap": {"t": 0.0005},
}
"""Values that make a method do all of its work; densities and weights are below."""

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}

WEIGHTS_OF_ALL = WEIGHTS | {"d": 0.25}
"""Those of an average in which the base is a model like the others."""

BY_ROW = ("model_stock",)
"""Methods that are also measured by row."""

OF_MERGEKIT = {"ramplus": "ramplus_tl", "slerp": "nuslerp"}
"""Where mergekit's name is another one."""

UNKNOWN_TO_MERGEKIT = {"warp", "passthrough", "slerp"}
"""Not compared here: mergekit has no such method, or it is compared in other experiments."""


def ours() -> dict[str, Command]:
    """A merge by each method, with a base where it takes one; `linear` first, of three models and of four."""
    average = {
        "linear": _ours("linear"),
        "linear, base included": contenders.of_method("linear", {"weight": WEIGHTS_OF_ALL}, 4, False),
    }
    names = [name for name in METHODS if name not in ("linear", "passthrough")]
    by_row = {f"{name}, by row": _ours(name, granularity="row") for name in BY_ROW}
    return average | {name: _ours(name) for name in names} | by_row


def _ours(name: str, **more: object) -> Command:
    method = METHODS[name]
    most = method.n_models[1] or 3
    options = OWN_OPTIONS.get(name, {}) | more
    known = declared(method.options)
    if "density" in known:
        options["density"] = 0.5
    if "weight" in known:
        options["weight"] = WEIGHTS
    return contenders.of_method(name, options, min(3, most), method.base == "needed")


def mergekits(environment: Path) -> dict[str, Command]:
    """mergekit's merges by the same methods."""
    names = [name for name in METHODS if name not in UNKNOWN_TO_MERGEKIT]
    return {f"mergekit {name}": contenders.mergekit_method(environment, _recipe(name)) for name in names}


def ties_of_two(environment: Path | None) -> dict[str, Command]:
    """TIES of two fine-tunes: ours, and mergekit's if it is there."""
    options = {"density": 0.5, "weight": dict(list(WEIGHTS.items())[:2])}
    commands = {"ties": contenders.of_method("ties", options, 2, True)}
    if environment:
        commands["mergekit ties"] = contenders.mergekit_method(environment, _recipe("ties", 2))
    return commands


def _recipe(name: str, n_models: int = 3) -> Callable[[Path], Mapping[str, object]]:
    method = METHODS[name]
    known = declared(method.options)
    per_model = {"density": 0.5} if "density" in known else {}
    most = method.n_models[1] or 3

    def recipe(folder: Path) -> Mapping[str, object]:
        models = [
            {
                "model": str(folder / label),
                "parameters": {**per_model, **({"weight": weight} if "weight" in known else {})},
            }
            for label, weight in list(WEIGHTS.items())[: min(n_models, most)]
        ]
        base = {"base_model": str(folder / "base")} if method.base == "needed" else {}
        return {
            "merge_method": OF_MERGEKIT.get(name, name),
            "models": models,
            **base,
            "parameters": OWN_OPTIONS.get(name, {}),
            "dtype": "bfloat16",
        }

    return recipe
