"""Runs the `fusion_bench` command to its end, and looks at what it made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file
from torch import Tensor

import fusion_slerp
from fusion_slerp import slerp
from tests.fusion_bench_commands import HOST_SETTINGS

DEMO = Path(fusion_slerp.__file__).parent / "demo"
PLAYS, CODE = str(DEMO / "plays"), str(DEMO / "code")

T = TypeVar("T")

HANG_S = 600
"""No run takes that long; one that does hangs."""


def run_to_the_end(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Runs the very program until all of its processes have ended; returns its exit code and its output."""
    command = [Path(sys.executable).with_name("fusion_bench"), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **HOST_SETTINGS, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=HANG_S,
    )
    return done.returncode, done.stdout


def only(items: Iterable[T]) -> T:
    """The only one."""
    (item,) = items
    return item


def assert_is_merge_of_demo(child: Path, t: float) -> None:
    """Looks at two tensors of a merge of the demo's models."""
    a, b = load_file(f"{PLAYS}/model.safetensors"), load_file(f"{CODE}/model.safetensors")
    assert_merged(load_file(child / "model.safetensors"), a, b, t)


def assert_merged(merged: dict[str, Tensor], a: dict[str, Tensor], b: dict[str, Tensor], t: float) -> None:
    """Looks at two tensors of a merge."""
    assert merged.keys() == a.keys()
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert merged[name].equal(slerp(t, a[name], b[name]))
