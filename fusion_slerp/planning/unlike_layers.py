"""Layers that have other tensors than their like, which no key of the config explains."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from fusion_slerp.errors import MismatchError, Problem, listed
from fusion_slerp.planning.layer_values import Layers
from fusion_slerp.planning.sliced_config import sliced_config
from fusion_slerp.planning.view import View
from fusion_slerp.tensor_names import layer_of


def other_tensors(view: View, stack: str, layers: Layers) -> Iterator[Problem]:
    """Yields the problem with slices that move a layer to where the model has other tensors.

    A model may have a norm less in its first layer, or one layer that holds what others share. Then the
    merged model's class expects the tensors of a position, and not those of the layer.

    Args:
        view: The model, with all its layers.
        stack: The start of the names of its layers' tensors.
        layers: Those that the merged model has, in their order.
    """
    odd = _odd_layers(view, stack, layers.n)
    if not odd or layers.are_all:
        return
    (first, *more), order = sorted(odd), layers.order
    stays = {0: order[:1], layers.n - 1: order[-1:]}.get(first)
    if not more and stays == (first,) and order.count(first) == 1:
        return
    fields = (
        ("model", view.source),
        ("found", f"layer {first} has other tensors than its like: {listed(sorted(odd[first]), 3)}"),
        ("needed", "a key of config.json that says so, beside num_hidden_layers"),
    )
    fix = "leave out slices"
    if stays is not None and not more:
        fix += f", or let layer {first} be the {'first' if first == 0 else 'last'} and take it once"
    yield Problem(MismatchError, "the slices move a layer that is bound to its position", fields, fix)


def _odd_layers(view: View, stack: str, n: int) -> dict[int, set[str]]:
    """The layers whose tensors differ from those of most layers of their kind, and in which."""
    own: list[set[str]] = [set() for _ in range(n)]
    for name in view.tensors:
        layer = layer_of(name)
        if layer is not None and layer[0] == stack and layer[1] < n:
            own[layer[1]].add(name[len(stack) + len(str(layer[1])) + 1 :])
    if all(each == own[0] for each in own):
        return {}
    by_kind: dict[str, list[int]] = {}
    for i in range(n):
        alone, _ = sliced_config(view.config, Layers((i,), n))
        by_kind.setdefault(json.dumps(alone), []).append(i)
    odd = {}
    for like in by_kind.values():
        usual = Counter(frozenset(own[i]) for i in reversed(like)).most_common(1)[0][0]
        odd |= {i: own[i] ^ usual for i in like if own[i] != usual}
    return odd
