"""Tensors that some of the models lack."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from fusion_slerp.errors import MismatchError, Problem, listed, nearest, setting
from fusion_slerp.planning.view import View
from fusion_slerp.sources.source import Source
from fusion_slerp.tensor_names import layer_of, mtp_layers
from fusion_slerp.vocabulary.rows import Owners

OnlyIn = Mapping[Owners, Sequence[str]]
"""The names that some models lack, by the labels of those that have them."""


def by_owners(by_label: Mapping[str, Mapping[str, Source]], alone: Container[str]) -> OnlyIn:
    """Returns the names that some models lack, without those that may be missing.

    Args:
        by_label: The tensors of every model.
        alone: The names that need no counterpart.
    """
    only: dict[Owners, list[str]] = {}
    first, *others = by_label.values()
    if all(other.keys() == first.keys() for other in others):
        return only
    for name in dict.fromkeys(name for tensors in by_label.values() for name in tensors):
        owners = tuple(label for label, tensors in by_label.items() if name in tensors)
        if len(owners) < len(by_label) and name not in alone:
            only.setdefault(owners, []).append(name)
    return only


def copied(views: Mapping[str, View], only: OnlyIn) -> list[str]:
    """Returns a remark for each set of models that have tensors which others lack."""
    return [
        f"only in {' and '.join(views[label].source for label in owners)}, "
        f"{'copied' if len(owners) == 1 else 'merged'}: {listed(names, 3)}{_kind(names)}"
        for owners, names in only.items()
    ]


def names_differ(views: Mapping[str, View], only: OnlyIn, configs_fit: bool) -> Problem:
    """Returns the problem that lists the tensors that some models lack, by the models that have them."""
    fields: list[tuple[str, object]] = []
    for owners, names in only.items():
        near = [name for others, more in only.items() if others != owners for name in more][:1000]
        shown = [f"{name}{nearest(name, near)}" for name in names[:3]]
        found = f"{len(names)}: {listed([*shown, *names[3:]], 3)}{_kind(names)}"
        fields.append((f"only in {', '.join(owners)}", found))
        fields.append(("folder", ", ".join(str(views[label].folder) for label in owners)))
    fix = "merge models of one architecture and depth, saved by the same library"
    if len(only) == 1 and configs_fit:
        fix += f", or use {setting('missing', 'copy')} to copy tensors from the only model that has them"
    return Problem(MismatchError, "the tensor names differ", tuple(fields), fix)


def _kind(names: Sequence[str]) -> str:
    """A remark about tensors that all belong to layers for multi-token prediction."""
    layers = mtp_layers(names)
    is_mtp = bool(layers) and all(layer_of(name) in layers for name in names)
    return " (layers for multi-token prediction, MTP)" if is_mtp else ""
