"""Which tensors have a row for each token, by their names: embeddings, output heads and the heads' biases.

A name is a first guess. `planning.vocabulary_tensors` checks it against the numbers of rows, and refuses
tensors without such a name that have as many rows as a vocabulary.

Source: `get_input_embeddings` and `get_output_embeddings` of every causal and image-text model of
transformers 5.23, and the names in older files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

Role = Literal["embedding", "per layer", "head"]
"""`"per layer"`: an embedding with rows for every layer, and a vocabulary size of its own."""

EMBEDDINGS = frozenset(
    "embed_tokens wte word_embeddings word_embedding embed_in tok_embeddings tokens_embed input_embedding "
    "embeddings embed shared w".split()
)
"""Names of the input embedding's module, by architecture."""

ONLY_OUTSIDE_LAYERS = frozenset({"embeddings", "embed", "shared", "w"})
"""Those that are too plain to be trusted within a layer."""

PER_LAYER = frozenset({"embed_tokens_per_layer"})

HEADS = frozenset(
    "lm_head generator_lm_head embed_out output_projection output_layer lm_loss unembed".split(),
)
"""Names of the output head's module, under any prefix."""

TOP_HEADS = frozenset({"output", "proj_out", "head", "decoder"})
"""Names of the output head's module that mean it at the top level only."""

INNER_HEADS = {
    "lm_head": frozenset("decoder linear out_proj".split()),
    "cls.predictions": frozenset({"decoder"}),
    "pred_layer": frozenset({"proj"}),
    "shared_head": frozenset({"head"}),
}
"""Heads within a module: the module's name, and the heads' names in it."""

BIASED = frozenset({"lm_head", "cls.predictions"})
"""Modules with a bias of their own for the head within them."""

BEFORE_LAYERS = EMBEDDINGS | PER_LAYER | {"wpe", "embed_positions"}
"""Modules outside the layers that come before them."""


_ALL = frozenset(
    {
        *EMBEDDINGS,
        *PER_LAYER,
        *HEADS,
        *TOP_HEADS,
        *(own for inner in INNER_HEADS.values() for own in inner),
        *(module.rpartition(".")[2] for module in BIASED),
    }
)
"""The last module in every name that has a role."""


def roles(names: Iterable[str]) -> dict[str, Role]:
    """Returns the role of every tensor that has one."""
    possible = [name for name in names if len(last := name.rsplit(".", 2)) > 1 and last[-2] in _ALL]
    return {name: role for name in possible if (role := role_of(name)) is not None}


def role_of(name: str) -> Role | None:
    """Returns the part that a tensor's rows have in a vocabulary; None if its name does not say it."""
    module, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    outer, _, own = module.rpartition(".")
    if kind == "weight" and own in PER_LAYER:
        return "per layer"
    if kind == "weight" and own in EMBEDDINGS and not (own in ONLY_OUTSIDE_LAYERS and is_in_layer(outer)):
        return "embedding"
    return "head" if _is_head(outer, own, kind) else None


def _is_head(outer: str, own: str, kind: str) -> bool:
    if own in HEADS or (own in TOP_HEADS and not outer):
        return True
    if any(own in inner and _ends_with(outer, module) for module, inner in INNER_HEADS.items()):
        return True
    whole = f"{outer}.{own}"
    return kind == "bias" and any(_ends_with(whole, module) for module in BIASED)


def _ends_with(name: str, module: str) -> bool:
    return name == module or name.endswith(f".{module}")


def is_part_of_embedding(name: str) -> bool:
    """Whether a tensor belongs to an embedding's module, but its role there is not known."""
    modules = EMBEDDINGS - ONLY_OUTSIDE_LAYERS
    is_within = not modules.isdisjoint(name.split(".")[:-1]) and not is_in_layer(name)
    return is_within and role_of(name) is None


def is_in_layer(name: str) -> bool:
    """Whether a tensor is in one of several numbered modules."""
    return any(part.isdigit() for part in name.split("."))


def ends(names: Iterable[str]) -> tuple[str | None, str | None]:
    """Returns the weights of the output head and of the input embedding; None for one unless exactly one is
    outside the layers.
    """
    return ends_among(roles(names))


def ends_among(roles: Mapping[str, Role]) -> tuple[str | None, str | None]:
    """Returns the same as `ends`, for names whose roles are known."""
    outside = {n: role for n, role in roles.items() if n.endswith(".weight") and not is_in_layer(n)}
    heads, embeddings = ([n for n, own in outside.items() if own == role] for role in ("head", "embedding"))
    return (heads[0] if len(heads) == 1 else None), (embeddings[0] if len(embeddings) == 1 else None)


def is_of_head(name: str) -> bool:
    """Whether a tensor belongs to the output head."""
    return role_of(name) == "head"


def is_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers comes before them."""
    return any(part in BEFORE_LAYERS for part in name.split("."))
