"""A model's config.json for some of its layers, in a given order."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fusion_slerp.planning import layer_keys as keys
from fusion_slerp.planning.config_paths import Path, text_part, text_path, with_value
from fusion_slerp.planning.layer_patterns import Pattern
from fusion_slerp.planning.layer_values import Layers, UnfitError, shifted_period, value_for
from fusion_slerp.planning.tables.layer_defaults import DEFAULTS, PARTS
from fusion_slerp.planning.tables.layer_lists import LISTS

COUNT = "num_hidden_layers"

FOREIGN = ("rope_", "quantization", "compression", "id2label", "label2id", "task_specific", "auto_map")
"""Beginnings of the keys of parts that say nothing of layers by their index."""

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unfit:
    """A key that cannot follow the layers.

    Attributes:
        path: The keys to it.
        value: Its value; None if the config leaves it to a default.
    """

    path: Path
    value: Any


def sliced_config(
    config: Config, layers: Layers, overridden: Container[Path] = ()
) -> tuple[dict[str, Any], list[Unfit]]:
    """Returns a model's config for some of its layers, and the keys that cannot follow them.

    Args:
        config: The model's config.
        layers: The layers.
        overridden: Paths of values that the merged model gets from elsewhere; they need not follow.
    """
    if layers.are_all:
        return dict(config), []
    path = text_path(config)
    part = text_part(config)
    work = _Slicing(_model_type(config), part, layers)
    new = work.part()
    unfit = [each for each in work.unfit if (*path, *each.path) not in overridden]
    changed = new if not path else with_value(config, path, new)
    if path:  # keys that are repeated at the top
        changed |= {k: new[k] for k in config.keys() & new.keys() if config[k] == part.get(k) != new[k]}
    return changed, [Unfit((*path, *each.path), each.value) for each in unfit]


def lists_of(config: Config) -> Mapping[str, Pattern]:
    """Returns how the class of a config fills the lists with a value a layer, by key."""
    return _lists().get(_model_type(config), {})


def explicit_config(config: Config, n: int) -> dict[str, Any]:
    """Returns a config that states what its class would fill in.

    Args:
        config: A model's config.
        n: Its number of layers.
    """
    part = {**_defaults().get(_model_type(config), {}), **text_part(config)}
    for key, pattern in lists_of(config).items():
        values = pattern.of(part, n) if part.get(key) is None else None
        if values is not None:
            part[key] = [i for i, each in enumerate(values) if each] if pattern.indices else values
    path = text_path(config)
    return with_value(config, path, part) if path else part


def _model_type(config: Config) -> str:
    """The type of a config's language model."""
    own, whole = (each.get("model_type") for each in (text_part(config), config))
    name = own if isinstance(own, str) else whole if isinstance(whole, str) else ""
    return PARTS.get(name, name)


@cache
def _lists() -> dict[str, dict[str, Pattern]]:
    """How each list is filled, by model type and key."""
    by_type: dict[str, dict[str, Pattern]] = {}
    for key, pattern, types in LISTS:
        for model_type in types.split():
            by_type.setdefault(model_type, {})[key] = pattern
    return by_type


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    """The defaults of keys that speak of layers, by model type and key."""
    by_type: dict[str, dict[str, Any]] = {}
    for key, default, types in DEFAULTS:
        for model_type in types.split():
            by_type.setdefault(model_type, {})[key] = list(default) if isinstance(default, tuple) else default
    return by_type


@dataclass(slots=True)
class _Slicing:
    """The work on the part of a config that describes the language model.

    Attributes:
        model_type: Its type.
        old: The part.
        layers: The layers.
        unfit: The keys that cannot follow.
    """

    model_type: str
    old: Config
    layers: Layers
    unfit: list[Unfit] = field(default_factory=list)

    def part(self) -> dict[str, Any]:
        """Returns the part for the layers."""
        new = self._values(self.old, ())
        if not any(key in self.old for key in keys.COUNTS):
            new[COUNT] = len(self.layers.order)
        self._add_defaults(new)
        for key, pattern in _lists().get(self.model_type, {}).items():
            self._fill(new, key, pattern)
        return new

    def _values(self, old: Config, path: Path) -> dict[str, Any]:
        new = dict(old)
        for key, value in old.items():
            if isinstance(value, Mapping) and _may_hold_layers(key, value):
                new[key] = self._values(value, (*path, key))
            try:
                new[key] = value_for(key, new[key], self.layers)
            except UnfitError:
                if self._matters(key):
                    self.unfit.append(Unfit((*path, key), value))
        self._periods(old, new, path)
        return new

    def _periods(self, old: Config, new: dict[str, Any], path: Path) -> None:
        """Sets the keys whose period starts at the layer that another key states."""
        known = {**_defaults().get(self.model_type, {}), **old} if not path else old
        for period, offset in keys.PERIODS.items():
            values = known.get(period), known.get(offset)
            if any(type(value) is not int for value in values):
                continue
            self._fits((*path, period))
            try:
                numbers = shifted_period(*values, self.layers)  # type: ignore[arg-type]
            except UnfitError:
                self.unfit.append(Unfit((*path, period), old.get(period)))
                continue
            new |= {k: n for k, n in zip((period, offset), numbers, strict=True) if n != known[k] or k in old}

    def _matters(self, key: str) -> bool:
        return key not in keys.WINDOWS or self.old.get("use_sliding_window") is not False

    def _fits(self, path: Path) -> None:
        self.unfit[:] = [each for each in self.unfit if each.path != path]

    def _add_defaults(self, new: dict[str, Any]) -> None:
        """Adds what a key that is absent means, where its default would mean other layers."""
        for key, default in _defaults().get(self.model_type, {}).items():
            is_set = key in self.old or key in keys.PERIODS or key in keys.PERIODS.values()
            if is_set or not self._matters(key):
                continue
            try:
                value = value_for(key, default, self.layers)
            except UnfitError:
                self.unfit.append(Unfit((key,), None))
                continue
            if value != default:
                new[key] = value

    def _fill(self, new: dict[str, Any], key: str, pattern: Pattern) -> None:
        """Writes a list that the class would fill for other layers, and ends what its keys have to say."""
        given = self.old.get(key)
        if given is None and not (pattern.of_list and self.old.get(pattern.of_list) is not None):
            old = pattern.of(self.old, self.layers.n)
            if old is None:
                self.unfit.append(Unfit((key,), None))
                return
            wanted = self.layers.pick(old)
            fitting = {k: v for k, v in new.items() if k not in pattern.keys or not self._has_unfit((k,))}
            if pattern.of(fitting, len(wanted)) != wanted:
                new[key] = [i for i, each in enumerate(wanted) if each] if pattern.indices else wanted
        for each in pattern.keys:
            if self._has_unfit((each,)):
                self._fits((each,))
                new.pop(each, None)
        values = new.get(key)
        if isinstance(values, list) and not pattern.allows(values):
            self.unfit.append(Unfit((key,), given))

    def _has_unfit(self, names: Container[str]) -> bool:
        return any(len(each.path) == 1 and each.path[0] in names for each in self.unfit)


def _may_hold_layers(key: str, part: Config) -> bool:
    """Whether a part of a config may have keys about the language model's layers."""
    is_other_model = key.endswith("_config") and isinstance(part.get("model_type"), str)
    return not is_other_model and not key.startswith(FOREIGN) and not keys.OF_OTHERS.search(key)
