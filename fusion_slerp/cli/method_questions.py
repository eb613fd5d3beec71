"""The questions about the method and its values."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from fusion_slerp.cli.options import read_value
from fusion_slerp.cli.prompts import InvalidAnswer, say, until
from fusion_slerp.errors import nearest, printable
from fusion_slerp.methods import DEFAULT, METHODS, Method
from fusion_slerp.options import declaration, declared, meanings
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import make_settings

LIST = "?"
"""The answer that asks for the list of methods."""

ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth")

OF_DEFAULT = {"t": "t, from 0 (the first) to 1 (the second), or a list across layers, e.g. [0, 0.5, 1]"}
"""Questions about options of the default method."""


def ask_method() -> Method:
    """Asks for a method; an empty line is the default."""

    def check(answer: str) -> Method:
        if answer == LIST:
            _list_methods()
            raise InvalidAnswer("enter the name of one of them")
        name = answer.removeprefix("--method ") or DEFAULT
        if name not in METHODS:
            shown = printable(name, 60)
            raise InvalidAnswer(f"no method {shown!r}{nearest(name, METHODS)}; {LIST} lists them")
        return METHODS[name]

    return until(f"Method, or {LIST} for a list", check, DEFAULT)


def _list_methods() -> None:
    width = max(map(len, METHODS))
    for name, method in METHODS.items():
        models = f"{method.models_text} model{'s' * (not method.models_text.endswith(' 1'))}"
        base = {"none": "", "optional": ", and a base if wanted", "needed": " and a base"}[method.base]
        say(Text.assemble((f"  {name:{width}}  ", "bold cyan"), f"{models}{base}: {method.summary}"))


def model_question(method: Method, label: str, may_end: bool) -> str:
    """Returns the question for a model.

    Args:
        method: The method.
        label: The model's label.
        may_end: Whether there are enough models without it.
    """
    if label == BASE:
        return "Base, the ancestor of all of them"
    position = labels(len(ORDINALS)).index(label) if label in labels(len(ORDINALS)) else None
    ordinal = f"Model {label}" if position is None else f"{ORDINALS[position]} model"
    if may_end:
        return f"{ordinal} (Enter: no more)"
    return f"{ordinal} (t = {position})" if method.name == DEFAULT else ordinal


def ask_values(method: Method) -> dict[str, Any]:
    """Asks for the method's options that may vary over depth and names; returns those by name."""
    own = {name: each for name, each in declared(method.options).items() if declaration(each).is_schedule}
    return {name: _ask_value(method, name, each.default) for name, each in own.items()}


def _ask_value(method: Method, name: str, default: Any) -> Any:
    def check(answer: str) -> Any:
        answer = answer.removeprefix(f"-{name} ").strip(" '")  # as the fixes of errors spell it
        value = read_value(answer or str(default), name)
        make_settings(**{"method": method.name, name: value})
        return value

    first_sentence = meanings(method.options)[name].partition(". ")[0].removesuffix(".")
    of_default = OF_DEFAULT if method.name == DEFAULT else {}
    return until(of_default.get(name, f"{name}: {first_sentence}"), check, str(default))
