"""The rows of the merged model's tensors, and the vocabulary sizes in its config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fusion_slerp.planning.config_paths import Path, text_part, text_path
from fusion_slerp.planning.view import View
from fusion_slerp.planning.vocabulary_tensors import VocabularyTensors
from fusion_slerp.vocabulary.alignment import Alignment

SIZE, SIZE_PER_LAYER = "vocab_size", "vocab_size_per_layer_input"
"""The config's keys for the rows of an embedding, and of an embedding per layer."""

ALSO = {SIZE: ("decoder_vocab_size",), SIZE_PER_LAYER: ()}
"""Keys that repeat the size, in models that have one vocabulary twice (Marian)."""


def child_sizes(
    alignment: Alignment, tensors: VocabularyTensors, first: View
) -> tuple[dict[str, int], dict[str | Path, int]]:
    """Returns the rows of every tensor in the merged model, and the config's sizes where they change.

    Tensors of one vocabulary grow by the same number of rows, so that an embedding keeps the rows that it has
    in addition to those of the head.
    """
    assert tensors.usual is not None, "rows without a vocabulary"
    longest = {label: max(each[label] for each in tensors.counts.values()) for label in tensors.usual}
    groups = {SIZE: tensors.usual}
    if tensors.per_layer:
        groups[SIZE_PER_LAYER] = tensors.counts[min(tensors.per_layer)]
    config = text_part(first.config)
    of_child: dict[str, int] = {}
    sizes: dict[str | Path, int] = {}
    for key, usual in groups.items():
        names = [name for name in tensors.counts if (name in tensors.per_layer) == (key == SIZE_PER_LAYER)]
        counts = {name: tensors.counts[name] for name in names}
        base = usual[alignment.first]
        more = max(alignment.n_rows(each, longest) - each[alignment.first] for each in counts.values())
        n_base = alignment.padded(base + more)
        of_child |= {name: each[alignment.first] + n_base - base for name, each in counts.items()}
        stated = config.get(key)
        known = [each[first.label] for each in counts.values()]
        n_stated = stated if stated in known else usual[first.label]
        size = n_stated + n_base - usual[first.label]
        if size != stated:
            sizes |= {each: size for each in (key, *ALSO[key]) if each == key or config.get(each) == stated}
            others = _other_parts(first.config, key, stated, names) if stated is not None else ()
            sizes |= {path: size for path in others if path[:-1] != text_path(first.config)}
    return of_child, sizes


def _other_parts(config: Mapping[str, Any], key: str, size: object, names: Iterable[str]) -> Iterator[Path]:
    """Yields where other parts of a config state the same size, if they hold tensors of the vocabulary.

    An encoder has the tokens of its decoder (T5Gemma 2), a model that cuts texts those of the model that
    reads them (BLT).
    """
    for name, part in config.items():
        if not isinstance(part, Mapping):
            continue
        stem = name.removesuffix("_config")
        shares = stem == "text" or {"encoder", "decoder"} <= config.keys()  # the tensor may be stored once
        inner = [each for each in names if shares or any(stem in module for module in each.split("."))]
        if inner and part.get(key) == size:
            yield name, key
        yield from ((name, *path) for path in _other_parts(part, key, size, inner))
