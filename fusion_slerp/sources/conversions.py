"""Weights in a form that is not read, and the commands that convert them: adapters, GGUF, quantised weights.

The commands work as pasted, in a POSIX shell and, where paths are plain, in Windows' own. Names in them may
come from strangers' files: each is a Python literal within code that is quoted for the shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, CheckpointError, Problem, listed, printable
from fusion_slerp.sources.regular_files import open_regular

ADAPTER = "adapter_config.json"

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The start of the text that Git LFS leaves in place of a file until it downloads it."""

INPUTS_ALONE = re.compile(r"(?i).*(?:prompt|prefix|p_tuning).*")
"""Types of adapters that add to a model's inputs and to none of its weights."""

GGUF_PART = re.compile(r".*-\d{5}-of-\d{5}\.gguf")
UNQUANTISED = re.compile(r"(?i).*(?:bf16|f16|f32|fp16|fp32).*")

DEQUANTISE = {
    "bitsandbytes": ("accelerate bitsandbytes", "", "", ".dequantize()"),
    "fp8": (
        "accelerate",
        ", FineGrainedFP8Config as Q",
        ", quantization_config=Q(dequantize=True)",
        "",
    ),
    "mxfp4": ("accelerate", ", Mxfp4Config as Q", ", quantization_config=Q(dequantize=True)", ""),
}
"""By method: the packages needed, and what transformers' code imports, passes and calls. Tried with 5.23."""

MEMORIES = ("hf_quantizer", "quantization_config", "_weight_conversions")
"""Attributes by which a model loaded by transformers 5 refuses to be saved in plain weights."""

Where = tuple[str, str | Path]
"""`("folder", its path)`, or `("model", Hub id)`, with `@revision` if it has one."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """What the tensors of a model show of its quantisation.

    Attributes:
        names: The tensors that are quantised, with their types.
        file: The file of the first of these; None if there is none.
        are_plain: Whether there are tensors, and none of them is quantised.
    """

    names: Sequence[str]
    file: Path | None
    are_plain: bool


def adapter(where: Where, names: Sequence[str], config: object) -> Problem:
    """Returns the problem with an adapter in place of a model.

    Args:
        where: The adapter.
        names: Its files.
        config: The content of its adapter_config.json.
    """
    given: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    base, kind = (given.get(key) for key in ("base_model_name_or_path", "peft_type"))
    shown = f" ({printable(kind, SHOWN_NAME)})" if isinstance(kind, str) else ""
    fields = [where, ("found", f"{ADAPTER}{shown}, and no weights of a whole model")]
    base = base if isinstance(base, str) and 0 < len(base) <= SHOWN_NAME else None
    fields += [] if base is None else [("base model", base)]
    if isinstance(kind, str) and INPUTS_ALONE.fullmatch(kind):
        fix = "leave it out: an adapter of this type changes a model's inputs, and none of its weights"
    else:
        tokenizer = where[1] if base is None or "tokenizer_config.json" in names else base
        fix = f"merge it into its base model first (needs `pip install peft`): {merging(where[1], tokenizer)}"
        if base is None:
            fix = f"write the name of its base model into {ADAPTER}, as base_model_name_or_path; then {fix}"
    return Problem(CheckpointError, "an adapter is not a whole model", tuple(fields), fix)


def gguf(where: Where, names: Sequence[str]) -> Problem:
    """Returns the problem with GGUF files in place of weights that are read.

    Args:
        where: The model.
        names: The GGUF files, at least one.
    """
    fields = (where, ("found", f"{listed(names, 3)}: GGUF, a format that is not read"))
    whole = [name for name in names if not GGUF_PART.fullmatch(name)]
    fix = "merge the model that these files were made from, in safetensors"
    if whole:
        file = next(filter(UNQUANTISED.fullmatch, whole), whole[0])
        command = python(_converted(where[1], f", gguf_file={file!r}"))
        fix += f"; if there is none, convert a file (needs `pip install gguf accelerate`): {command}"
    return Problem(CheckpointError, "no readable weights", fields, fix)


def quantised(
    config: Path, stated: tuple[str, object] | None, tensors: Quantised, source: str | Path
) -> Problem:
    """Returns the problem with quantised weights.

    Args:
        config: The model's config.json.
        stated: The key in it that describes the quantisation, with its `quant_method`; None if it has none.
        tensors: What the tensors show.
        source: The folder or Hub id from which the suggested command loads the model.
    """
    fields: list[tuple[str, object]] = [("file", config if stated else tensors.file)]
    key, method = stated or ("", None)
    if stated:
        fields.append(("found", f"{printable(key, SHOWN_NAME)}, method {printable(method, SHOWN_NAME)}"))
    if tensors.names:
        fields.append(("tensors" if stated else "found", listed(tensors.names, 3)))
    fix = "merge the model that it was quantised from"
    if tensors.are_plain:
        key = printable(key, SHOWN_NAME)
        fix += f"; or, if {key} is a remnant (no tensor is quantised), remove it from {config.name}"
    elif isinstance(method, str) and method in DEQUANTISE:
        packages, imported, passed, called = DEQUANTISE[method]
        command = python(_converted(source, "", imported, passed, called))
        fix += f"; if there is none, dequantise this one (needs `pip install {packages}`): {command}"
    return Problem(CheckpointError, "quantised weights cannot be merged", tuple(fields), fix)


def is_pointer(file: Path) -> bool:
    """Whether a regular file holds the text that Git LFS leaves in place of it."""
    with open_regular(file) as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def pointer(file: Path) -> Problem:
    """Returns the problem with a pointer of Git LFS in place of a file."""
    git = f"git -C {shlex.quote(str(file.parent))} lfs"
    fields = (("file", file), ("found", "a file that Git LFS has not downloaded"))
    fix = f"{git} install --local && {git} pull"
    return Problem(CheckpointError, "a Git LFS pointer in place of a file", fields, fix)


def python(code: str) -> str:
    """Returns the command that runs a line of Python."""
    # Windows' shell knows double quotes alone; within them a POSIX shell reads some characters itself.
    is_plain = not set('"$`\\!') & set(code)
    return f'python -c "{code}"' if is_plain else f"python -c {shlex.quote(code)}"


def merging(source: str | Path, tokenizer: str | Path) -> str:
    """Returns the command that merges an adapter into its base, and saves the model with a tokenizer."""
    target = _target(source)
    return python(
        f"from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; "
        f"m = M.from_pretrained({_arguments(source)}, dtype='auto').merge_and_unload(); "
        f"m.save_pretrained({target}); "
        f"T.from_pretrained({_arguments(tokenizer)}).save_pretrained({target})"
    )


def _converted(
    source: str | Path, file: str = "", imported: str = "", passed: str = "", called: str = ""
) -> str:
    """Code that loads a model and its tokenizer, and saves both in plain weights."""
    arguments, target = _arguments(source) + file, _target(source)
    return (
        f"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T{imported}; "
        f"m = M.from_pretrained({arguments}, dtype='auto'{passed}){called}; "
        f"[vars(x).pop(k, 0) for x in (m, m.config) for k in {MEMORIES}]; "
        f"m.save_pretrained({target}); T.from_pretrained({arguments}).save_pretrained({target})"
    )


def _arguments(source: str | Path) -> str:
    """The arguments of `from_pretrained`."""
    if isinstance(source, Path):
        return repr(source.as_posix())
    repo, _, revision = source.partition("@")
    return f"{repo!r}, revision={revision!r}" if revision else repr(repo)


def _target(source: str | Path) -> str:
    """A folder for the converted model: next to a local one, else in the current folder."""
    if isinstance(source, Path):
        folder = source if source.name not in ("", "..") else source.resolve()
        return repr(f"{folder.as_posix()}-converted")
    return repr(f"./{source.partition('@')[0].rpartition('/')[2]}-converted")
