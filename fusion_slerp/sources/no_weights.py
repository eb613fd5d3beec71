"""The problem with a folder or repository that has no weights that are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, CheckpointError, Problem, listed, printable
from fusion_slerp.sources.conversions import ADAPTER, Where, adapter, gguf
from fusion_slerp.sources.findings import Findings
from fusion_slerp.sources.formats import FORMATS, SAFETENSORS, TORCH
from fusion_slerp.sources.json_files import SMALL, read_json

TRAINING = re.compile(r"training_args|optimizer|scheduler|rng_state")
"""The start of the names of files with the state of a training run."""


def no_weights(where: Where, names: Sequence[str], adapter_config: object = None) -> Problem:
    """Returns the problem with a model that has no readable weights.

    Args:
        where: The model.
        names: Its files.
        adapter_config: The content of its adapter_config.json, if it has one.
    """
    if ADAPTER in names:
        return adapter(where, names, adapter_config)
    for kind, pattern in ((SAFETENSORS, r".*\.safetensors"), (TORCH, r"pytorch_model.*\.bin")):
        if shards := [name for name in names if re.fullmatch(pattern, name)]:
            found = f"{listed(shards, 3)}, but no index"
            fix = f"download {kind.index} as well, or rename a single file to {kind.single}"
            return _no_weights(where, found, fix)
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return gguf(where, ggufs)
    others = [name for name in names if name.endswith((".bin", ".pt", ".pth")) and not TRAINING.match(name)]
    if others:
        fix = "save the model with save_pretrained, or merge another repository's copy of it"
        if len(others) == 1 and not others[0].startswith("consolidated"):
            fix = f"if {printable(others[0], SHOWN_NAME)} holds the weights, rename it to {TORCH.single}"
        return _no_weights(where, f"{listed(others, 3)}: a format or name that is not read", fix)
    return _no_weights(where, "no weight files", "name the folder that holds config.json and the weights")


def _no_weights(where: Where, found: str, fix: str) -> Problem:
    needed = " or ".join(kind.single for kind in FORMATS) + ", or shards with their index"
    return Problem(CheckpointError, "no readable weights", (where, ("found", found), ("needed", needed)), fix)


def add_no_weights(folder: Path, findings: Findings) -> None:
    """Adds what is wrong with a folder that has no readable weights."""
    names = sorted(path.name for path in folder.glob("*"))
    config: Any = None
    if ADAPTER in names:
        with suppress(OSError, ValueError):
            config = read_json(folder / ADAPTER, SMALL)
    if ADAPTER in names or any(name.endswith(".gguf") for name in names):
        findings.problems.clear()  # such folders need no config.json
    findings.problems.append(no_weights(("folder", folder), names, config))
