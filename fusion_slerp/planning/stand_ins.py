"""The layers that stand for those of other models, where slices name different models.

A config describes the layers of one model. So that model a's config can describe a layer of model b, it needs
a layer of the same kind: with the same type of attention, dense or with experts, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fusion_slerp.planning import layer_keys as keys
from fusion_slerp.planning.config_paths import text_part
from fusion_slerp.planning.layer_patterns import LEADING, layers_where
from fusion_slerp.planning.layer_values import Layers
from fusion_slerp.planning.sliced_config import explicit_config, lists_of, sliced_config
from fusion_slerp.settings.slices import Slice

Kind = Mapping[str, Any]
"""The part of a config that says of which kind a layer is, by key."""


@dataclass(frozen=True)
class Model:
    """A model's layers.

    Attributes:
        config: Its config.
        n: Their number, without those for multi-token prediction.
    """

    config: Mapping[str, Any]
    n: int

    @cached_property
    def kinds(self) -> Sequence[Kind]:
        """The kind of each layer."""
        config = explicit_config(self.config, self.n)
        alone = [sliced_config(config, Layers((i,), self.n)) for i in range(self.n)]
        flat = [dict(_flattened(text_part(one))) for one, _ in alone]
        whole = dict(_flattened(text_part(config)))
        known = lists_of(config)
        filling = {key for pattern in known.values() for key in pattern.keys}
        vary = {key for one in flat for key, value in one.items() if value != whole.get(key)}
        kinds = []
        for i, (one, (_, unfit)) in enumerate(zip(flat, alone, strict=True)):
            kind = {key: _kind(key, one) for key in vary.union(keys.NUMBERS, keys.PERIODS) if key in one}
            bound = {each.path[-1]: i for each in unfit}
            kind = {**kind, **{key: own for key, own in bound.items() if key not in keys.BOUND}}
            for key in (*keys.COUNTS, *filling, *known):
                kind.pop(key, None)
            kinds.append(kind | {key: _in_list(whole.get(key), i, known[key].indices) for key in known})
        return kinds


@dataclass(frozen=True, slots=True)
class NoLike:
    """A layer of which another model has no like.

    Attributes:
        label: The other model.
        of: The layer's model.
        layer: Its index.
        kind: Its kind.
    """

    label: str
    of: str
    layer: int
    kind: Kind


def orders(
    slices: Sequence[Slice], models: Mapping[str, Model]
) -> tuple[dict[str, tuple[int, ...]], list[NoLike]]:
    """Returns a layer of every model for each layer of the merged model, and those without a like.

    Args:
        slices: The slices.
        models: The models by label.
    """
    by_label: dict[str, tuple[int, ...]] = {}
    without: list[NoLike] = []
    for label, model in models.items():
        order: list[int] = []
        for part in slices:
            if label in part.ranges:
                order += range(*part.ranges[label])
                continue
            of, layers = next(iter(part.ranges.items()))
            for layer in range(*layers):
                like = _like(model, models[of], layer)
                if like is None:
                    without.append(NoLike(label, of, layer, models[of].kinds[layer]))
                order.append(0 if like is None else like)
        by_label[label] = tuple(order)
    return by_label, without


def _like(model: Model, other: Model, layer: int) -> int | None:
    """A model's layer of the kind of another model's, that with its index if possible; None without one."""
    if model.n == other.n and text_part(model.config) == text_part(other.config):
        return layer
    wanted = other.kinds[layer]
    alike = [i for i, kind in enumerate(model.kinds) if _are_alike(kind, wanted)]
    is_last = layer == other.n - 1
    if layer in alike and (is_last or layer != model.n - 1):
        return layer
    ends = (0, model.n - 1)  # layers there may have tensors of their own
    return min(alike, key=lambda i: (i in ends, abs(i - layer)), default=None)


def _are_alike(one: Kind, other: Kind) -> bool:
    """Whether two kinds agree; a key that only one has was written by another release."""
    return all(one[key] == other[key] for key in one.keys() & other.keys())


def _kind(key: str, alone: Mapping[str, Any]) -> Any:
    """What a key says of the only layer of a config."""
    value, name = alone[key], key.rpartition(".")[2]
    if name in keys.NUMBERS:
        holds = layers_where(keys.NUMBERS[name], value, 1)
        return value if holds is None else holds[0]
    if name in keys.LAST_INDEX and type(value) is int:
        return (layers_where(LEADING, value + 1, 1) or [value])[0]
    if name in keys.PERIODS and type(value) is int and value > 0:
        offset = alone.get(key.removesuffix(name) + keys.PERIODS[name])
        return value if offset is None else offset % value == 0
    return None if name in keys.PERIODS.values() else value


def _in_list(values: object, layer: int, are_indices: bool) -> Any:
    if not isinstance(values, list):
        return values
    if are_indices:
        return layer in values
    return values[layer] if layer < len(values) else None


def _flattened(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
