"""Finds and runs mergekit, which has an environment of its own: it needs other versions than the host."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

VARIABLE = "FUSION_SLERP_MERGEKIT"
"""Names the virtual environment with mergekit; `make peer` sets it."""

DEFAULT = Path(__file__).resolve().parents[2] / ".venv-mergekit"


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
