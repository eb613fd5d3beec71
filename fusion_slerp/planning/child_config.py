"""The child's config.json and generation_config.json, where they say otherwise than a parent's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.vocabulary.alignment import Alignment
from fusion_slerp.vocabulary.special_tokens import check_special_tokens, translator, with_ids_of_child
from fusion_slerp.vocabulary.tokens import dump, read_object

GENERATION_CONFIG = "generation_config.json"


def child_configs(
    a: Checkpoint, b: Checkpoint, changes: Mapping[str, Any], alignment: Alignment
) -> tuple[dict[str, Path | bytes], list[str]]:
    """Returns both files (where from, or their content), and remarks.

    Args:
        a: Parent a; its config is the child's.
        b: Parent b.
        changes: New values. `dtype` replaces either of its spellings; each key is replaced
            wherever the config has it, nested configs included, or added at the top.
        alignment: What became of the tokens.
    """
    giver = b if alignment.tokenizer.giver == "b" else a
    other = a if giver is b else b
    generation_from = giver if (giver.folder / GENERATION_CONFIG).is_file() else other
    old_generation = read_object(generation_from.folder / GENERATION_CONFIG)
    of_a, of_b = (translator(parent, alignment.child) for parent in (alignment.a, alignment.b))
    config, lost = with_ids_of_child(a.config, of_a, b.config if giver is b else None, of_b)
    generation, more = with_ids_of_child(old_generation, of_b if generation_from is b else of_a)
    remarks = list(dict.fromkeys([*lost, *more]))
    for key, value in changes.items():
        _set(config, key, value)
    files: dict[str, Path | bytes] = {CONFIG: _file(a.folder / CONFIG, config, a.config)}
    if (generation_from.folder / GENERATION_CONFIG).is_file():
        files[GENERATION_CONFIG] = _file(
            generation_from.folder / GENERATION_CONFIG, generation, old_generation
        )
    if alignment.tokenizer.rows:
        remarks += check_special_tokens(config, generation, alignment.tokenizer)
    return files, remarks


def _file(source: Path, content: Mapping[str, Any], original: Mapping[str, Any]) -> Path | bytes:
    if content == original:
        return source
    return dump(content)


def _set(config: dict[str, Any], key: str, value: object) -> None:
    spellings = ("torch_dtype", "dtype") if key == "dtype" else (key,)
    if not _replace(config, spellings, value):
        config[spellings[0]] = value  # of dtype, the spelling that older and newer transformers read


def _replace(config: dict[str, Any], keys: Sequence[str], value: object) -> bool:
    """Sets the keys wherever the config has one; returns whether it had."""
    found = False
    for key, old in config.items():
        if key in keys:
            config[key] = value
            found = True
        elif isinstance(old, dict):
            config[key] = inner = dict(old)
            found = _replace(inner, keys, value) or found
    return found
