"""The stack of layers of a model's language model, and what its config says of their number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fusion_slerp.errors import MismatchError, Problem
from fusion_slerp.planning.config_paths import Path, text_part, text_path
from fusion_slerp.planning.layer_keys import COUNTS, MTP_COUNTS
from fusion_slerp.planning.view import View
from fusion_slerp.sources.folder import CONFIG
from fusion_slerp.tensor_names import layer_of, mtp_layers
from fusion_slerp.tensor_names.vocabulary import ends

_OTHER_STACKS = re.compile(
    r"(^|[._])(mtp|visi|visual|vit|sam|image|img|pixel|video|audio|speech|sound|vq|patch|codec|tokenizer|vpm"
    r"|perceiver|resampler|qformer|projector|connector|aligner|embedder|adapter|depth_decoder|talker|token2wav"
    r"|code2wav)"
)
"""Words in the names of stacks that are not the language model's."""

_STACK_OF_LAYERS = re.compile(r"(^|\.)(layers|h|blocks)\.$")
"""Names of stacks with a module for each layer that a config counts."""


def stacks_of(names: Iterable[str], n_layers: int | None = None) -> dict[str, int]:
    """Returns the numbers of layers of the stacks that may be the language model's, by their names' start.

    Args:
        names: The names of the model's tensors.
        n_layers: The language model's number of layers; None if it is not known.
    """
    stacks: dict[str, int] = {}
    modules = {_without_its_end(name) for name in names}  # far fewer than names
    for layer in filter(None, map(layer_of, modules)):
        stacks[layer[0]] = max(stacks.get(layer[0], 0), layer[1] + 1)
    candidates = {stack: n for stack, n in stacks.items() if not _OTHER_STACKS.search(stack)}
    usual = {stack: n for stack, n in candidates.items() if _STACK_OF_LAYERS.search(stack)}
    as_counted = {stack: n for stack, n in usual.items() if n == n_layers}
    return candidates if len(candidates) == 1 else as_counted or usual or candidates


def _without_its_end(name: str) -> str:
    """A name without its last two parts, unless they tell the layer."""
    start, *end = name.rsplit(".", 2)
    return name if len(end) < 2 or end[0].isdecimal() or start.isdecimal() else f"{start}."


def stacks_of_view(view: View) -> dict[str, int]:
    """Returns the numbers of layers of the stacks that may be a model's language model's."""
    return stacks_of(view.tensors, stated_layers(view.config))


def stated_layers(config: Mapping[str, Any]) -> int | None:
    """Returns the number of the language model's layers that a config states; None if it states none."""
    count = _count(config)
    return count[1] if count else None


def is_of_other_part(name: str) -> bool:
    """Whether a tensor belongs to another part than the language model: to one for pictures or sound."""
    return bool(_OTHER_STACKS.search(name))


def n_mtp_layers(view: View, stack: tuple[str, int]) -> int:
    """Returns the number of layers for multi-token prediction at the end of a stack."""
    name, n = stack
    count = _count(view.config)
    stated = [text_part(view.config).get(key) for key in MTP_COUNTS]
    if count is not None and n - count[1] in stated:
        return n - count[1]
    named = sorted(i for own, i in mtp_layers(view.tensors) if own == name)
    return len(named) if named == list(range(n - len(named), n)) else 0


def _count(config: Mapping[str, Any]) -> tuple[Path, int] | None:
    """The key that states the number of the language model's layers, and the number."""
    path, part = text_path(config), text_part(config)
    stated = [(key, part.get(key)) for key in COUNTS]
    return next((((*path, key), n) for key, n in stated if type(n) is int), None)


def other_count(view: View, stacks: Mapping[str, int]) -> Iterator[Problem]:
    """Yields the problem with a config that counts other layers than the files hold, if both are certain."""
    count = _count(view.config)
    if count is None or len(stacks) != 1 or view.config.get("is_encoder_decoder"):
        return
    ((stack, n),) = stacks.items()
    if not _STACK_OF_LAYERS.search(stack) or n - n_mtp_layers(view, (stack, n)) == count[1]:
        return
    if ends(view.tensors)[1] is None:
        return  # not a whole language model
    file = next(each.file for name, each in view.checkpoint.tensors.items() if name.startswith(stack))
    fields = (
        ("config", f"{'.'.join(count[0])}: {count[1]} in {view.folder / CONFIG}"),
        ("found", f"layers up to {stack}{n - 1} in {file}"),
    )
    headline = "the config counts other layers than the files hold"
    fix = f"download the model again, or correct {count[0][-1]} in its config.json"
    yield Problem(MismatchError, headline, fields, fix)
