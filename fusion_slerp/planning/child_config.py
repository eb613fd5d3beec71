"""The merged model's config.json and generation_config.json, where they differ from a source model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, Problem, SettingsError, listed, printable, setting
from fusion_slerp.planning.config_paths import Path, text_part, text_path, value_at, with_value
from fusion_slerp.planning.heads import TIED
from fusion_slerp.planning.tied_defaults import tying_paths
from fusion_slerp.planning.turn_ends import ends_of, with_turn_ends
from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.vocabulary.alignment import Alignment
from fusion_slerp.vocabulary.special_tokens import (
    check_special_tokens,
    is_id_key,
    translator,
    with_ids_of_child,
)
from fusion_slerp.vocabulary.tokens import dump, read_object

GENERATION_CONFIG = "generation_config.json"


def child_configs(
    files: Mapping[str, Checkpoint],
    configs: Mapping[str, Mapping[str, Any]],
    changes: Mapping[str, object] | Mapping[Path, object],
    alignment: Alignment,
    overrides: Mapping[Path, object] = MappingProxyType({}),
) -> tuple[dict[str, FilePath | bytes], list[str]]:
    """Returns both files (each as the path to copy, or as content), and remarks.

    Args:
        files: The models by label, as stored; model a first.
        configs: Their configs, by label, restricted to the layers that are used. The merged model gets model
            a's, with the special ids of the model whose tokenizer it gets.
        changes: New values, as `with_changes` takes them. `dtype` replaces either of its spellings wherever
            it stands.
        alignment: The aligned vocabularies.
        overrides: Values of the setting `config_overrides` by path, which are written last.

    Raises:
        SettingsError: An override is for a part that the config lacks.
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
    of_giver = _ids_placed_as(configs[first], configs[giver]) if giver != first else None
    config, lost = with_ids_of_child(configs[first], translate[first], of_giver, translate[giver])
    generation, more = with_ids_of_child(old_generation, translate[generation_from])
    remarks = list(dict.fromkeys([*lost, *more]))
    stops = generation if source.is_file() else config
    stops, more = with_turn_ends(stops, config, alignment.tokenizer, _ends(files, alignment))
    config, generation = (config, stops) if source.is_file() else (stops, generation)
    remarks += more
    config = with_changes(config, changes)
    config = _with_overrides(config, overrides)
    written = {CONFIG: _file(files[first].folder / CONFIG, config, files[first].config)}
    if source.is_file():
        written[GENERATION_CONFIG] = _file(source, generation, old_generation)
    if alignment.tokenizer.rows:
        remarks += check_special_tokens(config, generation, alignment.tokenizer)
    return written, remarks


def _ids_placed_as(config: Mapping[str, Any], giver: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ids of a config where another config has them: at its top, or in its language model's part.

    Ids that the other config lacks are where the giver has them, or in the language model's part.
    """
    path, of_top, of_text = text_path(config), _ids(giver), _ids(text_part(giver))
    if not path:
        return giver if not text_path(giver) else {**of_text, **of_top}
    is_alike = text_path(giver) == path
    top: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for key in {**of_text, **of_top}:
        has_top, has_inner = key in config, key in text_part(config)
        if has_top or (is_alike and key in of_top and not has_inner):
            top[key] = of_top.get(key, of_text.get(key))
        if has_inner or (not has_top and not (is_alike and key in of_top)):
            inner[key] = of_text.get(key, of_top.get(key))
    others = {key: value for key, value in giver.items() if is_alike and key not in of_top}
    return with_value({**others, **top}, path, inner)


def _ids(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if is_id_key(key) and value is not None}


def _ends(files: Mapping[str, Checkpoint], alignment: Alignment) -> set[str]:
    """The tokens at which any model's generation stops, if the merged model has a chat template."""
    if not alignment.tokenizer.chat_templates:
        return set()
    generation = {label: read_object(each.folder / GENERATION_CONFIG) for label, each in files.items()}
    ends = (ends_of(files[at].config, generation[at], alignment.vocabularies[at]) for at in files)
    return set().union(*ends)


def _first_with_generation_config(files: Mapping[str, Checkpoint], giver: str) -> str:
    """The tokenizer's model if it has the file, else the first model that has it, else the tokenizer's."""
    having = (label for label in (giver, *files) if (files[label].folder / GENERATION_CONFIG).is_file())
    return next(having, giver)


def _file(source: FilePath, content: Mapping[str, Any], original: Mapping[str, Any]) -> FilePath | bytes:
    if content == original:
        return source
    return dump(content)


def by_path(overrides: Mapping[str, object]) -> dict[Path, object]:
    """Returns the values of the setting `config_overrides` by path."""
    return {tuple(name.split(".")): value for name, value in overrides.items()}


def _with_overrides(config: dict[str, Any], overrides: Mapping[Path, object]) -> dict[str, Any]:
    for path, value in overrides.items():
        part = value_at(config, path[:-1])
        if not isinstance(part, Mapping):
            raise _no_part(config, path).error()
        kept = {key: each for key, each in part.items() if key != path[-1]}
        if value is not None:
            config = with_value(config, path, value)
        else:
            config = with_value(config, path[:-1], kept) if path[1:] else kept
    return config


def _no_part(config: Mapping[str, Any], path: Path) -> Problem:
    name = ".".join(path)
    parts = [key for key, value in config.items() if isinstance(value, Mapping)]
    known = f"; the config has {listed(parts, 5)}" if parts else ""
    fields = (("found", printable(name, SHOWN_NAME)), ("needed", f"a key of a part that is there{known}"))
    fix = f"use {setting('config_overrides', {path[-1]: None})} for a key at the top, or leave it out"
    return Problem(SettingsError, "config_overrides names a part that config.json lacks", fields, fix)


SECOND_SIZES = {"vocab_size": "decoder_vocab_size"}
"""A second key with the same number, by the first. Source: transformers' Marian."""

DTYPES = ("torch_dtype", "dtype")
"""Spellings of the type, that of older releases first: all releases of transformers read it."""


def with_changes(
    config: Mapping[str, Any], changes: Mapping[str, object] | Mapping[Path, object]
) -> dict[str, Any]:
    """Returns a config with new values: by path exactly there, by key where a model of its kind has it.

    A key belongs to the language model: it is set in the part that describes it, and at the top as well if
    the config repeats it there. Parts for images or sound keep values of the same name.
    """
    changed = dict(config)
    for key, value in changes.items():
        places = [key] if isinstance(key, tuple) else _places(changed, key)
        for place in places:
            changed = with_value(changed, place, value)
    return changed


def _places(config: Mapping[str, Any], key: str) -> Sequence[Path]:
    """Where a config has a key of the language model, or transformers looks for it."""
    if key == "dtype":
        return [*_everywhere(config, DTYPES)] or [(DTYPES[0],)]
    if key == TIED:
        return tying_paths(config)
    own = (*text_path(config), key)
    old = value_at(config, own)
    places = [own]
    if own != (key,) and key in config and old in (None, config[key]):
        places.append((key,))
    second = (*own[:-1], SECOND_SIZES.get(key, ""))
    if old is not None and value_at(config, second) == old:
        places.append(second)
    return places


def _everywhere(config: Mapping[str, Any], keys: Sequence[str], prefix: Path = ()) -> Iterator[Path]:
    for key, value in config.items():
        if key in keys:
            yield (*prefix, key)
        elif isinstance(value, Mapping):
            yield from _everywhere(value, keys, (*prefix, key))
