"""Finds and runs mergekit, which has an environment of its own: it needs other versions than the host."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import write_json

VARIABLE = "FUSION_SLERP_MERGEKIT"
"""Names the virtual environment with mergekit; `make peer` sets it."""

DEFAULT = Path(__file__).resolve().parents[2] / ".venv-mergekit"
DRIVER = Path(__file__).with_name("run_mergekit_recipes.py")


def command() -> Path:
    """mergekit's command; skips the test where nobody says that it is there, fails where it should be."""
    named = os.environ.get(VARIABLE)
    found = Path(named or DEFAULT) / "bin" / "mergekit-yaml"
    if found.is_file():
        return found
    if named:
        pytest.fail(f"{VARIABLE} names {named}, which has no bin/mergekit-yaml")
    pytest.skip(f"no mergekit: run make peer, or set {VARIABLE} to a virtual environment that has it")


def slerp(a: Path, b: Path, out: Path, t: float, dtype: str, **tokenizer: object) -> None:
    """Merges by mergekit; `tokenizer` is that section of its recipe."""
    done = run(a, b, out, t, dtype, **tokenizer)
    assert done.returncode == 0, done.stderr[-3000:]


def run(
    a: Path, b: Path, out: Path, t: float, dtype: str, **tokenizer: object
) -> subprocess.CompletedProcess[str]:
    """As `slerp`, but it may fail."""
    recipe: Mapping[str, object] = {
        "merge_method": "slerp",
        "base_model": str(a),
        "models": [{"model": str(a)}, {"model": str(b)}],
        "parameters": {"t": t},
        "dtype": dtype,
        "tokenizer": tokenizer,
    }
    file = out.with_suffix(".yml")
    file.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    arguments = [str(command()), str(file), str(out)]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment)


def run_recipes(jobs: Mapping[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """Runs recipes in one process.

    Args:
        jobs: Recipes by folder of the child; where "plan " stands before it, the recipe is only planned.
        file: Where to write them.

    Returns:
        By folder, for every tensor of the child: t of slerp, nuslerp and nearswap; the weights of linear by
        model; of other methods, `shared` parameters, and those of the `models`.
    """
    write_json(file, jobs)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    words = [command().with_name("python"), DRIVER, file]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def filled(value: Any, models: Mapping[str, str]) -> Any:
    """A recipe with folders in the place of names."""
    if isinstance(value, dict):
        return {key: filled(each, models) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, models) for each in value]
    return models.get(value, value) if isinstance(value, str) else value


def read(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a checkpoint as float64, and the names of their types."""
    from safetensors.torch import load_file

    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    return weights, {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
