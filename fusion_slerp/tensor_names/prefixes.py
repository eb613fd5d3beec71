"""The beginnings of tensors' names: wrappers, and the part of a larger model that is its language model.

Source of the language model's prefixes: `conversion_mapping.py` of transformers 5.23, which renames those of
older files (`language_model.model.` to `model.language_model.`, `visual.` to `model.visual.`, ...).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

WRAPPERS = frozenset(
    "_orig_mod _fsdp_wrapped_module _checkpoint_wrapped_module _forward_module base_layer".split()
)
"""Parts of names that wrappers add anywhere: torch.compile, FSDP, checkpointing, Lightning, PEFT."""

PEFT = "base_model.model."
"""The beginning of the names that PEFT's wrapper gives, which no model has itself."""

OUTER_WRAPPERS = ("module.", PEFT)
"""Beginnings that wrappers add to every name: DistributedDataParallel, PEFT."""

ADAPTER_PARTS = frozenset(
    {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"}
)
"""Parts of the names of LoRA layers that were saved within their model."""

LANGUAGE_MODELS = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.text_model.",
    "text_model.model.",
    "text_model.",
    "thinker.model.",
    "thinker.",
    "llm.model.",
    "llm.",
    "model.",
    "transformer.",
)
"""Beginnings of the names in a language model, alone or as part of a larger model; longer ones first."""


def without_wrappers(names: Collection[str]) -> dict[str, str]:
    """Returns the names that wrappers have changed, each with the name that the model itself gives."""
    changed = {
        name: ".".join(part for part in name.removeprefix(PEFT).split(".") if part not in WRAPPERS)
        for name in names
        if "_orig_mod." in name or "_module." in name or "base_" in name  # faster than a pattern
    }
    while True:
        inner = [changed.get(name, name) for name in names]
        outer = next((o for o in OUTER_WRAPPERS if inner and all(n.startswith(o) for n in inner)), None)
        if outer is None:
            return {name: new for name, new in changed.items() if name != new}
        changed |= {name: new.removeprefix(outer) for name, new in zip(names, inner, strict=True)}


def adapter_parts(names: Iterable[str]) -> list[str]:
    """Returns the names that belong to LoRA layers."""
    return [name for name in names if "lora_" in name and ADAPTER_PARTS.intersection(name.split("."))]


def renamed_like(of_first: Collection[str], others: Collection[str]) -> dict[str, str]:
    """Returns the new names of another model's tensors whose names differ from the first's in the beginning.

    Args:
        of_first: The first model's names.
        others: The other model's.
    """
    free = set(of_first).difference(others)
    lonely = [name for name in others if name not in of_first] if free else []
    if not lonely:
        return {}
    renamed = _paired(lonely, free, _within_model)
    if renamed:
        return renamed
    for top in Counter(name.partition(".")[0] + "." for name in (*free, *lonely)):
        renamed = _paired(lonely, free, lambda name, top=top: name.removeprefix(top))
        if len(renamed) >= len(free) / 2:
            return renamed
    return {}


def _paired(lonely: Iterable[str], free: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    """Each lonely name with the free name of the same key, if it is the only one of each."""
    by_key: dict[str, list[str]] = {}
    for name in free:
        by_key.setdefault(key(name), []).append(name)
    ours: dict[str, list[str]] = {}
    for name in lonely:
        ours.setdefault(key(name), []).append(name)
    return {
        names[0]: by_key[each][0]
        for each, names in ours.items()
        if len(names) == 1 and len(by_key.get(each, ())) == 1
    }


def _within_model(name: str) -> str:
    """A tensor's name within the language model, or within another part of a larger model."""
    return next((name.removeprefix(start) for start in LANGUAGE_MODELS if name.startswith(start)), name)


def beginnings(renamed: Mapping[str, str]) -> tuple[str, str]:
    """Returns how most names in a renaming begin, and how the new ones do."""
    pairs = Counter(_beginnings(old, new) for old, new in renamed.items())
    return pairs.most_common(1)[0][0]


def _beginnings(old: str, new: str) -> tuple[str, str]:
    """The beginnings of two names before the part they have in common at their ends."""
    olds, news = old.split("."), new.split(".")
    while olds and news and olds[-1] == news[-1]:
        del olds[-1], news[-1]
    return "".join(f"{part}." for part in olds), "".join(f"{part}." for part in news)
