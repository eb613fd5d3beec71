"""Makes the tables of what a config without `tie_word_embeddings` means, for the installed transformers.

The table of transformers 4 is made by transformers 4 only, that of transformers 5 by transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from fusion_slerp.planning.config_paths import text_path, with_value
from tests.tables.written import module, names, write

KEY = "tie_word_embeddings"
MAJOR = int(transformers.__version__.split(".")[0])
NAME = f"tied_in_transformers_{MAJOR}"
VALUES = (None, False, True)


def text() -> str:
    """Returns the text of the module for the installed transformers."""
    of = {True: set[str](), False: set[str]()}
    for model_type, tied in _defaults():
        of[tied].add(model_type)
    sets = [
        names("TIED", of[True], "Model types whose head is tied to the embedding if the key is absent."),
        names("UNTIED", of[False], "Model types whose head is not tied if the key is absent."),
    ]
    if MAJOR > 4:
        sets += [names(name, _types_of(name), meaning) for name, meaning in RULES.items()]
    return module(f"The default of tying a head to an embedding in transformers {MAJOR}.", SCRIPT, *sets)


SCRIPT = "tied_embeddings"
RULES = {
    "ALWAYS": "Model types whose head is tied whatever the config says.",
    "NEVER": "Model types whose head is not tied whatever the config says.",
    "BY_TEXT": "Model types that read the key in the part of their language model only.",
    "BY_TOP_FIRST": "Model types that read the language model's part if the key is absent at the top.",
    "BY_EITHER": "Model types whose head is tied if the key is true at the top or in the text part.",
}

Results = dict[tuple[bool | None, bool | None], bool | None]
FORMS: dict[str, Callable[[Results, bool | None, bool | None], bool]] = {
    "": lambda of, top, text: of[top, text] == of[top, None],
    "BY_TEXT": lambda of, top, text: of[top, text] == of[None, text],
    "BY_TOP_FIRST": lambda of, top, text: of[top, text] == (of[None, text] if top is None else top),
    "BY_EITHER": lambda of, top, text: of[top, text] == (of[top, False] or of[False, text]),
}
"""Forms of a result by the key's value at the top and in the language model's part."""


def _defaults() -> Iterator[tuple[str, bool]]:
    """The model types, and whether the config of each ties by default."""
    for model_type in CONFIG_MAPPING_NAMES:
        try:
            config: Any = CONFIG_MAPPING[model_type]()
            read = config if MAJOR > 4 else config.get_text_config(decoder=True)
        except Exception:  # needs parts, or files of the Hub
            continue
        if hasattr(read, KEY) and (MAJOR > 4 or _has_vocabulary(read)):
            yield model_type, bool(getattr(read, KEY))


def _has_vocabulary(config: Any) -> bool:
    return getattr(config, "vocab_size", None) is not None


def _types_of(rule: str) -> list[str]:
    from tests.tables.model_classes import model_classes  # needs the classes of transformers 5

    by_type: dict[str, list[Any]] = {}
    for each in model_classes():
        by_type.setdefault(each.config_class.model_type, []).append(each)
    for each in model_classes():
        by_type.setdefault(each.model_type, [each])
    return [model_type for model_type, classes in by_type.items() if _rule(classes) == rule]


def _rule(classes: Sequence[Any]) -> str:
    """The rule of a model type; the empty string if it reads the key at the top."""
    tying = [each for each in classes if each.tying]
    if not tying:
        return "NEVER"
    results: Results = {(top, text): _is_tied(tying[0], top, text) for top in VALUES for text in VALUES}
    if None in results.values():
        return ""
    if len(set(results.values())) == 1:
        return "ALWAYS" if results[None, None] else "NEVER"
    fitting = [name for name, fits in FORMS.items() if all(fits(results, *key) for key in results)]
    if not fitting:
        raise ValueError(f"{tying[0].model_type}: no rule fits {results}")
    return fitting[0]


def _is_tied(each: Any, top: bool | None, text: bool | None) -> bool | None:
    """Whether a head is tied under a config with these values of the key; None if it cannot be made."""
    try:
        default = each.config_class()
        path = text_path(default.to_dict())
        content: dict[str, Any] = {}
        if path:
            part = {"model_type": _at(default, path).model_type}
            content = with_value({}, path, part if text is None else {**part, KEY: text})
        if top is not None:
            content[KEY] = top
        config = each.config_class(**content)
    except Exception:
        return None
    return any(getattr(_at(config, path), KEY, False) for path in each.tying)


def _at(config: Any, path: Sequence[str]) -> Any:
    for key in path:
        config = getattr(config, key)
    return config


if __name__ == "__main__":
    write(NAME, text())
