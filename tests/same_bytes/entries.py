"""The entry points of the package that the cases use; they use nothing else of it.

The code behind them may change freely. The reader of today's merge_report.json is also here.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import fusion_slerp

Options = Mapping[str, Any]
Found = dict[str, Any]
"""The result of a case: digests by name."""

RECORDED_WHY = {"zero vector": "null vector"}
"""Reasons, and the names that they were recorded under."""

OF_ANOTHER_FORM = ("README.md", "merge_manifest.json", "merge_report.json")
"""Files about the merge, whose form may change while every weight stays the same."""

PICTURES = "images/"
"""The card's pictures, of which the same is true."""


def by_merge(parents: tuple[Path, Path], out: Path, options: Options) -> Found:
    """Through `fusion_slerp.merge`."""
    fusion_slerp.merge(*parents, out=out, **options)
    return of_child(out)


def by_command(parents: tuple[Path, Path], out: Path, options: Options) -> Found:
    """Through the command, with two models and options as a user types them."""
    _command("merge", *parents, "-o", out, *_typed(options))
    return of_child(out)


def by_recipe(parents: tuple[Path, Path], out: Path, options: Options) -> Found:
    """Through the command, with the recipe next to the parents."""
    _command("merge", parents[0].parent / "recipe.yml", "-o", out, *_typed(options))
    return of_child(out)


def by_method(parents: tuple[Path, Path], out: Path, options: Options) -> Found:
    """Through FusionBench's method without a path: streamed from files, into memory."""
    from fusion_bench.modelpool import CausalLMPool

    models = {"x": str(parents[0]), "y": str(parents[1])}
    pool = CausalLMPool(models, tokenizer=None, enable_lazy_loading=True)
    child = fusion_slerp.SlerpForCausalLM(**options).run(pool)
    return {"tensors": of_tensors(child.state_dict())}


def by_method_of_loaded(parents: tuple[Path, Path], out: Path, options: Options) -> Found:
    """Through FusionBench's method with models that the pool builds, saved to a path.

    transformers saves them and decides on files and header: the digest is that of the tensors.
    """
    from fusion_bench.modelpool import CausalLMPool
    from safetensors.torch import load_file

    target = f"{__name__}.load_llama"  # a loader that the method knows would be streamed from
    models = {
        name: {"_target_": target, "pretrained_model_name_or_path": str(folder)}
        for name, folder in zip("xy", parents, strict=True)
    }
    pool = CausalLMPool(models, tokenizer=None, enable_lazy_loading=True)
    child = fusion_slerp.SlerpForCausalLM(model_save_path=str(out), **options).run(pool)
    saved = {}
    for file in sorted(out.glob("*.safetensors")):
        saved |= load_file(file)
    return {
        "tensors": of_tensors(child.state_dict()),
        "saved tensors": of_tensors(saved),
        **of_report(out),
    }


def load_llama(pretrained_model_name_or_path: str) -> Any:
    """Loads a model."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(pretrained_model_name_or_path)


def by_method_of_modules(parents: tuple[Any, Any], out: Path, options: Options) -> Found:
    """Through FusionBench's method with two modules that are in memory already."""
    from fusion_bench.modelpool import BaseModelPool

    pool = BaseModelPool(dict(zip("xy", parents, strict=True)))
    child = fusion_slerp.SlerpForCausalLM(**options).run(pool)
    return {"tensors": of_tensors(child.state_dict())}


def by_slerp(parents: Mapping[str, tuple[Any, Any]], out: Path, options: Options) -> Found:
    """Through `fusion_slerp.slerp`: pairs of tensors or arrays, by name."""
    given = {name: value for name, value in options.items() if name != "threads"}
    return {
        "tensors": of_tensors(
            {k: fusion_slerp.slerp(v0=v0, v1=v1, **given) for k, (v0, v1) in parents.items()}
        )
    }


# --- digests ----------------------------------------------------------------------------------------------


def of_child(folder: Path) -> Found:
    """SHA-256 of every file of a child, except those whose form may change, and the content of its report."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {
        name: _digest([(folder / name).read_bytes()])
        for name in names
        if not name.startswith(PICTURES) and name not in OF_ANOTHER_FORM
    }
    return {"files": files, **of_report(folder)}


def of_report(folder: Path) -> Found:
    """The number of tensors made by each rule, and digests of their rules, angles and norms."""
    rows = [_row(row) for row in json.loads((folder / "merge_report.json").read_bytes())["tensors"]]
    rules = [rule for _, rule, _ in rows]
    return {
        "rules": {rule: rules.count(rule) for rule in sorted(set(rules))},
        "rules by tensor": _digest(f"{name}: {rule}\n".encode() for name, rule, _ in rows),
        "measures by tensor": _digest(f"{name}: {numbers}\n".encode() for name, _, numbers in rows),
    }


def _row(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Name, rule, and numbers of a tensor in merge_report.json."""
    numbers = json.dumps(_numbers(row), sort_keys=True)
    why = row.get("why", "") if row["action"] == "lerp" else ""
    for name, then in RECORDED_WHY.items():
        why = why.replace(name, then)
    return row["name"], f"{row['action']}: {why}" if why else row["action"], numbers


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row in the form of format 1, in which they were recorded."""
    norms, rows = row.get("norms", {}), row.get("rows")
    if rows is not None:
        copied = {f"from_{label}": rows["copied"].get(label, 0) for label in "ab"}
        rows = {"merged": rows["merged"], **copied, "filled": rows["filled"]}
    return {
        "t": row.get("t", 0.0) or 0.0,  # no entry of a schedule matches: it keeps the first model
        **{key: row.get(key) for key in ("n_elements", "angle_deg")},
        **{f"norm_{label}": norms.get(label) for label in "ab"},
        "rows": rows,
    }


def of_tensors(tensors: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and raw bytes, in the order of the names."""
    return _digest(part for name in sorted(tensors) for part in _tensor(name, tensors[name]))


def _tensor(name: str, tensor: Any) -> Sequence[bytes]:
    shape, kind = list(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if not isinstance(tensor, np.ndarray):
        import torch

        flat = tensor.detach().contiguous().reshape(-1)
        tensor = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    return f"{name} {kind} {shape}\n".encode(), tensor.tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    found = sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


# --- the command, in this process -------------------------------------------------------------------------


def _typed(options: Options) -> list[str]:
    """Options as words of a command line; values are YAML, of which JSON is a part."""
    words = []
    for name, value in options.items():
        flag = "-t" if name == "t" else f"--{name.lower().replace('_', '-')}"
        words += [flag, value if isinstance(value, str) else json.dumps(value)]
    return words


def _command(*words: object) -> None:
    from fusion_slerp.cli import main

    with _as_command(["fusion_slerp", *map(str, words), "--quiet"]) as said:
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise AssertionError(f"fusion_slerp ended with {end.code}:\n{said.getvalue()}") from None


@contextmanager
def _as_command(words: list[str]):
    """Sets the process's arguments, stores nothing in the user's home, and captures the output."""
    said = io.StringIO()
    state = {"XDG_STATE_HOME": os.devnull, "COLUMNS": "160"}
    with (
        patch.object(sys, "argv", words),
        patch.dict(os.environ, state),
        redirect_stdout(said),
        redirect_stderr(said),
    ):
        yield said
