"""Makes the table of the lists with a value a layer that transformers fills if a config lacks them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from itertools import groupby
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fusion_slerp.planning.config_paths import text_path
from fusion_slerp.planning.layer_keys import (
    BOUND,
    BY_ROOT_OF_COUNT,
    CYCLES,
    INDICES,
    LAST_INDEX,
    NUMBERS,
    PERIODS,
)
from fusion_slerp.planning.layer_patterns import EVERY, EVERY_FROM_0, LEADING, WINDOW, Pattern
from tests.tables.model_classes import TASKS
from tests.tables.written import module, write

SCRIPT = "layer_lists"
DEPTH = 96
"""Layers in which a key's effect shows: more than any default number of layers."""

DEPTHS = (DEPTH, 31, 30, 29, 28, 27, 26, 25, 13)
TRIED = (2, 3, 5, 7)
SPEAKING = (*NUMBERS, *LAST_INDEX, *PERIODS, *PERIODS.values(), *BOUND, *BY_ROOT_OF_COUNT)
COUNT = "num_hidden_layers"
SHORT = {
    "full_attention": "FULL",
    "sliding_attention": "SLIDING",
    "linear_attention": "LINEAR",
    "indexed_attention": "INDEXED",
    "chunked_attention": "CHUNKED",
    "hybrid_sliding": "HYBRID_SLIDING",
}
SHAPING = re.compile(r"layers?_|pattern|attn_config|compress|window|attention_(other|config)|sparse")
"""Keys that may shape a list but take no number."""


Filled = Callable[..., list[Any] | None]
"""From a number of layers and other keys to the list; None if the class refuses them."""


def text() -> str:
    """Returns the text of the module."""
    alike: dict[str, list[str]] = {}
    for name, cls in language_configs().items():
        for key in layer_lists(cls):
            pattern = pattern_of(cls, key)
            if pattern is not None:
                alike.setdefault(f"{key!r}, {_written(pattern)}", []).append(name)
    rows = "\n".join(f"    ({row}, {' '.join(names)!r})," for row, names in sorted(alike.items()))
    constants = "\n".join(f"{short} = {name!r}" for name, short in SHORT.items())
    docstring = '"""Keys, how the list is filled, and the types of language models that fill it like this."""'
    table = f"LISTS: tuple[tuple[str, Pattern, str], ...] = (\n{rows}\n)\n{docstring}"
    imported = "from fusion_slerp.planning.layer_patterns import Pattern"
    headline = "Lists with a value a layer, as transformers fills them if a config lacks them."
    return module(headline, SCRIPT, imported, constants, table).replace("'", '"')


def defaults_text() -> str:
    """Returns the text of the module with types of parts, and the defaults of keys that speak of layers."""
    parts, defaults = {}, dict[str, list[str]]()
    for name, cls in _language_parts().items():
        if name != cls.model_type:
            parts[name] = cls.model_type
    for name, cls in language_configs().items():
        for key, default in _fields(cls).items():
            is_number = key in SPEAKING and type(default) in (int, float) and (default or key in NUMBERS)
            if is_number or (key in CYCLES and default):
                defaults.setdefault(f"{key!r}, {default!r}", []).append(name)
        for key in INDICES:
            value = getattr(made_config(cls, {}), key, None)
            if key in _fields(cls) and value and key not in layer_lists(cls):
                defaults.setdefault(f"{key!r}, {tuple(value)!r}", []).append(name)
    of_parts = "\n".join(f"    {name!r}: {part!r}," for name, part in sorted(parts.items()))
    rows = "\n".join(f"    ({row}, {' '.join(types)!r})," for row, types in sorted(defaults.items()))
    return module(
        "What a config means that does not state a key that speaks of layers.",
        SCRIPT,
        "from typing import Any",
        f"PARTS: dict[str, str] = {{\n{of_parts}\n}}\n"
        '"""Model types of the language models within models with several parts."""',
        f"DEFAULTS: tuple[tuple[str, Any, str], ...] = (\n{rows}\n)\n"
        '"""Keys that speak of layers, their defaults, and the types of language models that have them."""',
    ).replace("'", '"')


def language_configs() -> dict[str, type[PreTrainedConfig]]:
    """Returns the class of each config that describes a language model, by its own model type."""
    return dict(sorted((cls.model_type, cls) for cls in _language_parts().values()))


@cache
def _language_parts() -> dict[str, type[PreTrainedConfig]]:
    """The same, by the model type of the whole config."""
    transformers.logging.set_verbosity(50)
    names = {t for task in TASKS for t in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")}
    return {name: _language_part(CONFIG_MAPPING[name]) for name in sorted(names)}


def _language_part(cls: Any) -> type[PreTrainedConfig]:
    try:
        part: Any = cls()
        for key in text_path(part.to_dict()):
            part = getattr(part, key)
    except Exception:  # a class without defaults describes itself
        return cls
    return type(part)


def _written(pattern: Pattern) -> str:
    given = {f.name: getattr(pattern, f.name) for f in fields(Pattern)}
    given = {key: value for key, value in given.items() if value != getattr(Pattern(), key)}
    written = f"Pattern({', '.join(f'{key}={_value(value)}' for key, value in given.items())})"
    for name, short in SHORT.items():
        written = written.replace(repr(name), short)
    return written


def _value(value: Any) -> str:
    """A value as Python writes it, with runs of one value in tuples as products."""
    runs = [(each, len([*run])) for each, run in groupby(value)] if isinstance(value, tuple) else []
    if max((n for _, n in runs), default=0) < 3:
        return repr(value)
    return " + ".join(f"({each!r},)" if n == 1 else f"{n} * ({each!r},)" for each, n in runs)


def layer_lists(cls: type[PreTrainedConfig]) -> list[str]:
    """Returns the keys of lists with a value a layer in a default config."""
    config = made_config(cls, {COUNT: DEPTH})
    values = {} if config is None else vars(config)
    return [k for k, v in values.items() if isinstance(v, (list, tuple)) and len(v) == DEPTH and k[0] != "_"]


def made_config(cls: type[PreTrainedConfig], values: Mapping[str, Any]) -> Any:
    """Returns a config with these values; None if the class refuses them."""
    key = cls, repr(sorted(values.items()))
    if key not in _MADE:
        try:
            _MADE[key] = cls(**values)
        except Exception:
            _MADE[key] = None
    return _MADE[key]


_MADE: dict[tuple[type[PreTrainedConfig], str], Any] = {}
"""Configs by class and values: most are asked for several times."""


def pattern_of(cls: type[PreTrainedConfig], key: str) -> Pattern | None:
    """Returns how a class fills a list; None if all layers have one value whatever else is set."""
    usual = list(getattr(made_config(cls, {COUNT: DEPTH}), key))
    is_index = usual == list(range(DEPTH))

    def filled(n: int, **given: Any) -> list[Any] | None:
        config = made_config(cls, {COUNT: n, **given})
        values = None if config is None else getattr(config, key, None)
        if not isinstance(values, (list, tuple)):
            return None
        return [i in values for i in range(n)] if is_index else list(values)

    keys = _keys_with_effect(cls, key, filled)
    lists = [each for each in layer_lists(cls) if each != key and _follows(cls, each, filled)]
    if not keys and not lists and not any(_vary(filled(n)) for n in DEPTHS):
        return None
    own = {"of_list": lists[0] if lists else "", "indices": is_index, **_bounds(cls, key)}
    form = next(filter(None, (_form(each, filled) for each in keys)), {})
    window = _window(cls, filled) if "use_sliding_window" in keys else {}
    form = window or form
    governed = {form.get("key")} | ({"use_sliding_window", "sliding_window"} if window else set())
    others = {each: default for each, default in keys.items() if each not in governed}
    shape = _shape(filled)
    if not shape and form:
        form["default"] = keys[form["key"]]
    simple = all(isinstance(value, (str, bool)) or value in (0, 1) for value in shape.get("cycle", ()))
    return Pattern(**(shape if simple else {}), **form, others=others, **own)


def _keys_with_effect(cls: type[PreTrainedConfig], key: str, filled: Filled) -> dict[str, Any]:
    """The keys that change the list, with their defaults."""
    usual, keys = filled(DEPTH), {}
    for name, default in candidates(cls).items():
        if name in (key, COUNT) or not (default is None or isinstance(default, int)):
            continue
        made = [filled(DEPTH, **{name: value}) for value in _other_values(default)]
        differs = any(each is not None and each != usual and _vary(each, usual) for each in made)
        refused = None in made and name not in _fields(cls) and SHAPING.search(name)
        if differs or (refused and name != "per_layer_config"):
            keys[name] = default
    return keys


def _vary(*lists: Sequence[Any] | None) -> bool:
    return any(len({*map(str, each or ())}) > 1 for each in lists)


def candidates(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """Returns the keys that a class reads, with their defaults."""
    read = re.findall(r"kwargs\.(?:pop|get)\(\s*\"(\w+)\"(?:, (\d+)\))?", inspect.getsource(cls))
    unlisted = {name: int(default) if default else None for name, default in read}
    return {**unlisted, **_fields(cls)}


def _fields(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for each in fields(cls):  # type: ignore[arg-type]
        if each.default is not MISSING:
            own[each.name] = each.default
        elif each.default_factory is not MISSING:
            own[each.name] = each.default_factory()
    return own


def _other_values(default: Any) -> list[Any]:
    return [not default] if isinstance(default, bool) else [3, 5, True] if default is None else [3, 5, None]


def _follows(cls: type[PreTrainedConfig], other: str, filled: Filled) -> bool:
    values = list(getattr(made_config(cls, {COUNT: DEPTH}), other))
    others = values[1:] if values == list(range(DEPTH)) else [*values[1:], *values[:1]]
    return filled(DEPTH, **{other: others}) not in (None, filled(DEPTH))


def _bounds(cls: type[PreTrainedConfig], key: str) -> dict[str, bool]:
    """Whether the class refuses or replaces a list with another last value, or without one of the kinds."""
    usual = list(getattr(made_config(cls, {COUNT: DEPTH}), key))
    kinds = list(dict.fromkeys(map(str, usual)))
    if not all(isinstance(each, str) for each in usual) or not _takes(cls, key, usual):
        return {}
    other_last = [usual.index(kind) for kind in kinds if kind != usual[-1]]
    stays = bool(other_last) and not _takes(cls, key, [*usual[:-1], usual[other_last[0]]])
    alone = [[kind] * (DEPTH - 1) + [usual[-1] if stays else kind] for kind in kinds]
    return {"last_stays": stays, "needs_all": not all(_takes(cls, key, each) for each in alone)}


def _takes(cls: type[PreTrainedConfig], key: str, values: Sequence[Any]) -> bool:
    config = made_config(cls, {COUNT: DEPTH, key: list(values)})
    return config is not None and list(getattr(config, key)) == list(values)


def _form(key: str, filled: Filled) -> dict[str, Any]:
    """What a number of a key means, if it is one of the simple forms."""
    for form in (LEADING, EVERY, EVERY_FROM_0):
        for n in (DEPTH, 13):
            made = {number: filled(n, **{key: number}) for number in TRIED}
            values = made[TRIED[0]]
            if values is None:
                break
            at = {LEADING: (0, -1), EVERY: (1, 0), EVERY_FROM_0: (0, 1)}[form]
            kinds = (values[at[0]], values[at[1]])
            pattern = Pattern(key=key, form=form, kinds=kinds)
            fits = all(made[number] == pattern.of({key: number}, n) for number in TRIED)
            if kinds[0] == kinds[1] or not fits:
                break
        else:
            return {"key": key, "form": form, "kinds": kinds}
    return {}


def _window(cls: type[PreTrainedConfig], filled: Filled) -> dict[str, Any]:
    default = _fields(cls).get("max_window_layers")
    kinds = ("sliding_attention", "full_attention")
    given = {"key": "max_window_layers", "form": WINDOW, "kinds": kinds, "default": default}
    pattern = Pattern(**given)
    tried = [{"use_sliding_window": on, "max_window_layers": k} for on in (True, False) for k in (0, 4, 200)]
    tried += [{"use_sliding_window": True}, {"use_sliding_window": True, "sliding_window": None}]
    return given if all(filled(DEPTH, **each) == pattern.of(each, DEPTH) for each in tried) else {}


def _shape(filled: Filled) -> dict[str, Any]:
    """The values of a list by default: some first ones, and a cycle."""
    usual: Sequence[Any] = filled(DEPTH) or []
    for start in range(8):
        for length in range(1, 9):
            for last in (None, usual[-1] if usual else None):
                cycle = tuple(usual[start : start + length])
                shape = {"start": tuple(usual[:start]), "cycle": cycle, "last": last}
                if all(filled(n) == Pattern(**shape).of({}, n) for n in DEPTHS):
                    return shape
    for length in range(1, 9):
        shape = {"cycle": tuple(reversed(usual[-length:])), "from_end": True}
        if all(filled(n) == Pattern(**shape).of({}, n) for n in DEPTHS):
            return shape
    return {}


if __name__ == "__main__":
    write("layer_lists", text())
    write("layer_defaults", defaults_text())
