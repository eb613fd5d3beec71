"""The value of a config's key for some of a model's layers, in a given order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusion_slerp.planning import layer_keys as keys
from fusion_slerp.planning.layer_patterns import LEADING, layers_where, number_for, period_for


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers that are kept.

    Attributes:
        order: The index of each in the model, in their new order.
        n: The model's number of layers.
        n_more: Layers for multi-token prediction that come after them and stay behind the last.
    """

    order: tuple[int, ...]
    n: int
    n_more: int = 0

    @property
    def are_all(self) -> bool:
        """Whether every layer stays where it is."""
        return self.order == tuple(range(self.n))

    def pick(self, values: Sequence[Any]) -> list[Any]:
        """Returns the values of these layers out of those of all, and what comes after them."""
        return [*(values[i] for i in self.order), *values[self.n :]]


class UnfitError(Exception):
    """No value of the key gives these layers the kinds that they have."""


def value_for(key: str, value: Any, layers: Layers) -> Any:
    """Returns the value of a key for these layers; the same if it does not speak of layers.

    Raises:
        UnfitError: There is none.
    """
    if keys.OF_OTHERS.search(key) and key not in keys.COUNTS:
        return value
    if key in keys.BOUND:
        return _if(not value or layers.are_all, value)
    if key in keys.BY_ROOT_OF_COUNT and type(value) in (int, float):
        return value * (len(layers.order) / layers.n) ** 0.5
    if type(value) is int:
        return _number(key, value, layers)
    if isinstance(value, list):
        return _list(key, value, layers)
    if isinstance(value, str):
        return _string(key, value, layers)
    if isinstance(value, Mapping) and _are_layers(value, layers.n + layers.n_more) and "layer" in key:
        return _by_number(value, layers)
    return value


def _number(key: str, value: int, layers: Layers) -> int:
    if key in keys.COUNTS:
        return len(layers.order) if value == layers.n else value
    if key in keys.NUMBERS:
        return _same_kinds(keys.NUMBERS[key], value, layers)
    if key in keys.LAST_INDEX and value >= 0:
        return _same_kinds(LEADING, value + 1, layers) - 1
    if key in keys.PERIODS or (keys.PERIOD_ALIKE.search(key) and key not in keys.PERIODS.values()):
        shifts = {(old - new) % value for new, old in enumerate(layers.order)} if value > 1 else set()
        return _if(shifts <= {0}, value)
    return value


def _if(fits: bool, value: Any) -> Any:
    if not fits:
        raise UnfitError
    return value


def _same_kinds(form: str, value: int, layers: Layers) -> int:
    kinds = layers_where(form, value, layers.n)
    if kinds is None:
        return value
    number = number_for(form, value, [kinds[i] for i in layers.order])
    if number is None:
        raise UnfitError
    return number


def shifted_period(period: int, offset: int, layers: Layers) -> tuple[int, int]:
    """Returns a period and an offset that mean the same layers, the old ones if they do.

    Raises:
        UnfitError: There are none.
    """
    numbers = period_for(period, offset, [period > 0 and i % period == offset for i in layers.order])
    if numbers is None:
        raise UnfitError
    return numbers


def _list(key: str, value: list[Any], layers: Layers) -> list[Any]:
    if key in keys.RUNS:
        return _runs(value, layers)
    if key in keys.CYCLES and value:
        same = all(value[old % len(value)] == value[new % len(value)] for new, old in enumerate(layers.order))
        return value if same else [value[i % len(value)] for i in layers.order]
    if key in keys.SOURCES and len(value) == layers.n:
        return [_source(value[old], new, layers) for new, old in enumerate(layers.order)]
    if key in (*keys.INDICES, *keys.INDICES_FROM_1):
        first = int(key in keys.INDICES_FROM_1)
        return [new + first for new, old in enumerate(layers.order) if old + first in value]
    if key in keys.NOT_LISTS:
        return value
    is_index = bool(keys.ALIKE.search(key)) and _are_indices(value, layers.n)
    if len(value) in {layers.n, layers.n + layers.n_more} and not (is_index and len(value) > 1):
        return layers.pick(value)
    return [new for new, old in enumerate(layers.order) if old in value] if is_index else value


def _are_indices(value: list[Any], n: int) -> bool:
    """Whether a list may be of layers: rising numbers below their number."""
    are_numbers = bool(value) and all(type(each) is int and 0 <= each < n for each in value)
    return are_numbers and sorted(set(value)) == value


def _source(old: Any, position: int, layers: Layers) -> int:
    if old == layers.order[position]:
        return position
    before = [new for new in range(position) if layers.order[new] == old]
    return _if(bool(before), before and before[-1])


def _runs(value: list[Any], layers: Layers) -> list[Any]:
    """`[[["global", "local"], 12]]`: each list as often as the number next to it says."""
    try:
        each = [kind for kinds, count in value for _ in range(min(count, layers.n)) for kind in kinds]
    except (TypeError, ValueError):
        return value
    return [[layers.pick(each), 1]] if len(each) == layers.n and not layers.are_all else value


def _string(key: str, value: str, layers: Layers) -> str:
    if key in keys.INDICES:
        numbers = [int(each) for each in value.split(",") if each.strip().isdecimal()]
        return ",".join(str(new) for new, old in enumerate(layers.order) if old in numbers)
    if "pattern" in key and len(value) in {layers.n, layers.n + layers.n_more}:
        return "".join(layers.pick(value))
    return value


def _are_layers(value: Mapping[str, Any], n: int) -> bool:
    return bool(value) and all(key.isdecimal() and len(key) < 9 and int(key) < n for key in value)


def _by_number(value: Mapping[str, Any], layers: Layers) -> dict[str, Any]:
    by_number = {int(key): each for key, each in value.items()}
    kept = {str(new): by_number[old] for new, old in enumerate(layers.order) if old in by_number}
    shift = len(layers.order) - layers.n
    return {**kept, **{str(i + shift): each for i, each in by_number.items() if i >= layers.n}}
