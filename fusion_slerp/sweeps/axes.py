"""What a sweep varies: an option, an option of one model, or an option of the tensors whose names match.

t              t of all tensors
weight.b       the weight of model b
t.self_attn    t of the tensors whose names contain self_attn, as `filter` in a schedule
weight.b.mlp   both
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, nearest, nearest_name, raise_all, setting
from fusion_slerp.methods import DEFAULT, METHODS
from fusion_slerp.options import declaration, declared
from fusion_slerp.settings.labels import labels
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.settings.schedule import KEYS
from fusion_slerp.sweeps.values import parse_values

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that a sweep varies.

    Attributes:
        name: As the user wrote it.
        values: What it tries, in the given order.
        option: The option.
        label: The model whose value of the option it is; None for all models.
        pattern: A part of the names of the tensors whose value it is; None for all tensors.
    """

    name: str
    values: tuple[Any, ...]
    option: str
    label: str | None = None
    pattern: str | None = None


def parse_axes(vary: Mapping[str, Any], options: Options, models: Mapping[str, str]) -> tuple[Axis, ...]:
    """Returns what a sweep varies.

    Args:
        vary: Values by name, in the forms of this module and of `values`.
        options: The options that stay the same: which method it is.
        models: Each model's label, by each name that it may be called by; without the base.

    Raises:
        SettingsError: All that is wrong with any, at once.
    """
    axes, problems = [], []
    known = _known(vary, options)
    for name, given in vary.items():
        try:
            axes.append(_axis(str(name), given, known, models))
        except SettingsError as error:
            problems.append(error)
    raise_all(problems)
    return tuple(axes)


def options_at(axes: Sequence[Axis], values: Mapping[str, Any], options: Options, n: int) -> dict[str, Any]:
    """Returns the options of one point.

    Args:
        axes: What is varied.
        values: The point: a value by each axis' name.
        options: The options that stay the same; an axis of some tensors or of one model changes these.
        n: Number of models, without the base.
    """
    changed = dict(options)
    whole = [axis for axis in axes if axis.label is None and axis.pattern is None]
    for axis in whole:
        changed[axis.option] = values[axis.name]
    # Backwards: of two entries of a schedule that match a name, the first applies, as given.
    for axis in reversed([axis for axis in axes if axis not in whole]):
        before = changed.get(axis.option, _default(axis.option, changed))
        changed[axis.option] = _with_part(before, axis, values[axis.name], changed, n)
    return changed


def _known(vary: Mapping[str, Any], options: Options) -> dict[str, Field[Any]]:
    """The declarations of all options that a merge by the method, or by one of the methods tried, has."""
    given = vary.get("method", options.get("method", DEFAULT))
    names = [given] if given in METHODS else parse_values(given, "method") if "method" in vary else []
    known = dict(declared(MergeSettings))
    for name in names:
        method = METHODS.get(name) if isinstance(name, str) else None
        known |= declared(method.options) if method else {}
    return known


def _axis(name: str, given: Any, known: Mapping[str, Field[Any]], models: Mapping[str, str]) -> Axis:
    option, _, rest = name.partition(".")
    each = known.get(option)
    if each is None:
        raise _unknown(name, option, known)
    if not declaration(each).changes_child:
        fix = f"vary another option, and set this one: {setting(option, declaration(each).example)}"
        needed = "an option that changes the merged model"
        raise Problem(SettingsError, f"{option} cannot be varied", (("needed", needed),), fix).error()
    values = parse_values(given, name)
    if not rest:
        return Axis(name, values, option)
    if not declaration(each).is_schedule:
        fix = f"use {setting('vary', {option: _example(values)})}"
        fields = (("found", name), ("needed", "an option that may differ between tensors or models"))
        raise Problem(SettingsError, f"{option} has one value for all tensors", fields, fix).error()
    first, _, after = rest.partition(".")
    if declaration(each).is_per_model and first in models:
        return Axis(name, values, option, models[first], after or None)
    return Axis(name, values, option, None, rest)


def _example(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values[:3])


def _unknown(name: str, option: str, known: Mapping[str, Field[Any]]) -> Exception:
    found = f"{option!r}{nearest(option, known)}"
    likely = nearest_name(option, known) or next(name for name, each in known.items() if name != "method")
    example = {likely + name[len(option) :]: declaration(known[likely]).example}
    fix = f"use {setting('vary', example)}"
    return Problem(SettingsError, "no such option to vary", (("found", found),), fix).error()


def _default(option: str, options: Options) -> Any:
    method = METHODS.get(options.get("method", DEFAULT))
    own = declared(method.options) if method else {}
    return own[option].default if option in own else None


def _is_by_label(value: Any) -> bool:
    return isinstance(value, Mapping) and not set(value) & set(KEYS)


def _with_part(before: Any, axis: Axis, value: Any, options: Options, n: int) -> Any:
    """An option's value in which one model's, or that of some tensors, is another."""
    if axis.label is None and not _is_by_label(before):
        return _with_entry(before, axis.pattern, value)
    default = _default(axis.option, options)
    by_label = dict(before) if _is_by_label(before) else dict.fromkeys(labels(n), before)
    every = [axis.label] if axis.label is not None else labels(n)
    return by_label | {
        label: _with_entry(by_label.get(label, default), axis.pattern, value) for label in every
    }


def _with_entry(before: Any, pattern: str | None, value: Any) -> Any:
    if pattern is None:
        return value
    if isinstance(before, Mapping):
        rest = [dict(before)]
    elif isinstance(before, (list, tuple)) and before and isinstance(before[0], Mapping):
        rest = list(before)
    else:
        rest = [{"value": before}]
    return [{"filter": pattern, "value": value}, *rest]
