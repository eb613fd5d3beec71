"""The pool's names of models in options, which the engine knows by label.

    modelpool: {models: {_pretrained_: ..., plays: ..., code: ...}}
    method: {weight: {plays: 0.4, code: 0.6}}                       # as {a: 0.4, b: 0.6}

A model may be called either way wherever an option has values by model, in the ranges of `slices`, and as a
source of `tokens`. If a name is also the label of another model, it counts as the name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, nearest, raise_all
from fusion_slerp.methods import Method
from fusion_slerp.options import declaration, declared
from fusion_slerp.settings.labels import BASE, is_label
from fusion_slerp.settings.schedule import KEYS

Options = Mapping[str, Any]


def with_labels(options: Options, labels: Mapping[str, str], method: Method) -> dict[str, Any]:
    """Returns options in which models are called by label.

    Args:
        options: Plain values, by name.
        labels: Each model's label by its name in the pool.
        method: Whose options they are.

    Raises:
        SettingsError: An option has a value for a model that the pool lacks, or two for one model.
    """
    changed = dict(options)
    for name in _per_model(method):
        if name in options:
            changed[name] = _of_models(options[name], name, labels)
    if isinstance(options.get("slices"), (list, tuple)):
        parts = enumerate(options["slices"])
        changed["slices"] = [_of_slice(each, f"slices[{i}]", labels, method) for i, each in parts]
    if isinstance(options.get("tokens"), Mapping):
        changed["tokens"] = {key: _of_token(each, labels) for key, each in options["tokens"].items()}
    return changed


def without_names(options: Options, method: Method) -> dict[str, Any]:
    """Returns options without those in which only a pool's names can be meant: it decides what they are."""
    unchecked = {name for name in _per_model(method) if _is_by_name(options.get(name), ())}
    slices = options.get("slices")
    own = _varying(method)
    if isinstance(slices, (list, tuple)) and any(_is_by_name(each, own) for each in slices):
        unchecked.add("slices")
    return {name: value for name, value in options.items() if name not in unchecked}


def _per_model(method: Method) -> list[str]:
    return [name for name, each in declared(method.options).items() if declaration(each).is_per_model]


def _varying(method: Method) -> list[str]:
    return [name for name, each in declared(method.options).items() if declaration(each).is_schedule]


def _by_model(value: Any) -> bool:
    """Whether a value is a mapping by model, rather than one entry of a schedule."""
    return isinstance(value, Mapping) and not set(value) & set(KEYS)


def _is_by_name(value: Any, others: Collection[str]) -> bool:
    return _by_model(value) and any(not is_label(key) and key not in others for key in value)


def _of_models(value: Any, option: str, labels: Mapping[str, str]) -> Any:
    if not _by_model(value):
        return value
    raise_all([*_problems(value, option, labels), *_of_base(value, option, labels)])
    return {_label(key, labels): each for key, each in value.items()}


def _of_base(value: Mapping[Any, Any], option: str, labels: Mapping[str, str]) -> Iterator[Problem]:
    """Yields a problem if the base has a value of its own."""
    for key in value:
        if _label(key, labels) == BASE:
            fields = (("found", key), ("needed", _shown(labels)))
            fix = f"leave {key} out of {option}"
            yield Problem(SettingsError, f"{option} has a value for the base", fields, fix)


def _shown(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({label})" for name, label in labels.items() if label != BASE)


def _of_slice(value: Any, name: str, labels: Mapping[str, str], method: Method) -> Any:
    if not isinstance(value, Mapping):
        return value
    own, per_model = _varying(method), _per_model(method)
    ranges = {key: each for key, each in value.items() if key not in own}
    raise_all(list(_problems(ranges, name, labels, own)))
    values = {key: each for key, each in value.items() if key in own}
    values |= {key: _of_models(values[key], f"{name}.{key}", labels) for key in values if key in per_model}
    return {_label(key, labels): each for key, each in ranges.items()} | values


def _of_token(value: Any, labels: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        named = {key: _of_token(value[key], labels) for key in ("source", "model") if key in value}
        return {**value, **named}
    return _label(value, labels)


def _label(key: Any, labels: Mapping[str, str]) -> Any:
    return labels.get(key, key) if isinstance(key, str) else key


def _problems(
    given: Mapping[Any, Any], option: str, labels: Mapping[str, str], others: Collection[str] = ()
) -> Iterator[Problem]:
    """Yields what is wrong with the keys of values by model.

    Args:
        given: The values.
        option: The option's name.
        labels: Each model's label by its name in the pool.
        others: Keys that are not models.
    """
    pool = _shown(labels)
    first: dict[str, Any] = {}
    for key in given:
        label = _label(key, labels)
        if label not in labels.values():
            hint = nearest(str(key), [*labels, *others])
            headline = f"{option} has a value for {key!r}, which the pool does not merge{hint}"
            fix = f"leave {key} out of {option}, or use a name or label of the pool's models"
            yield Problem(SettingsError, headline, (("found", key), ("needed", pool)), fix)
        elif label in first:
            fields = (("found", f"{first[label]} and {key}"), ("needed", pool))
            fix = f"leave one of them out of {option}"
            yield Problem(SettingsError, f"{option} has two values for one model", fields, fix)
        first[label] = key
