"""The merged model's config.json and generation_config.json, where they differ from a source model's."""

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
    files: Mapping[str, Checkpoint],
    configs: Mapping[str, Mapping[str, Any]],
    changes: Mapping[str, Any],
    alignment: Alignment,
) -> tuple[dict[str, Path | bytes], list[str]]:
    """Returns both files (each as the path to copy, or as content), and remarks.

    Args:
        files: The models by label, as stored; model a first.
        configs: Their configs, by label, restricted to the layers that are used. The merged model gets model
            a's, with the special ids of the model whose tokenizer it gets.
        changes: New values. `dtype` replaces either of its spellings; each key is replaced
            wherever the config has it, nested configs included, or added at the top.
        alignment: The aligned vocabularies.
    """
    first = next(iter(files))
    giver = alignment.tokenizer.giver or first
    generation_from = _first_with_generation_config(files, giver)
    source = files[generation_from].folder / GENERATION_CONFIG
    old_generation = read_object(source)
    translate = {
        label: translator(alignment.vocabularies[label], alignment.child)
        for label in {first, giver, generation_from}
    }
    of_giver = configs[giver] if giver != first else None
    config, lost = with_ids_of_child(configs[first], translate[first], of_giver, translate[giver])
    generation, more = with_ids_of_child(old_generation, translate[generation_from])
    remarks = list(dict.fromkeys([*lost, *more]))
    for key, value in changes.items():
        _set(config, key, value)
    written = {CONFIG: _file(files[first].folder / CONFIG, config, files[first].config)}
    if source.is_file():
        written[GENERATION_CONFIG] = _file(source, generation, old_generation)
    if alignment.tokenizer.rows:
        remarks += check_special_tokens(config, generation, alignment.tokenizer)
    return written, remarks


def _first_with_generation_config(files: Mapping[str, Checkpoint], giver: str) -> str:
    """The tokenizer's model if it has the file, else the first model that has it, else the tokenizer's."""
    having = (label for label in (giver, *files) if (files[label].folder / GENERATION_CONFIG).is_file())
    return next(having, giver)


def _file(source: Path, content: Mapping[str, Any], original: Mapping[str, Any]) -> Path | bytes:
    if content == original:
        return source
    return dump(content)


def _set(config: dict[str, Any], key: str, value: object) -> None:
    spellings = ("torch_dtype", "dtype") if key == "dtype" else (key,)
    if not _replace(config, spellings, value):
        config[spellings[0]] = value  # for dtype: the spelling that older and newer transformers read


def _replace(config: dict[str, Any], keys: Sequence[str], value: object) -> bool:
    """Sets the keys wherever the config has one; returns whether it had any."""
    is_replaced = False
    for key, old in config.items():
        if key in keys:
            config[key] = value
            is_replaced = True
        elif isinstance(old, dict):
            config[key] = inner = dict(old)
            is_replaced = _replace(inner, keys, value) or is_replaced
    return is_replaced
