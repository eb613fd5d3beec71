"""The classes that a FusionBench configuration names: one for each method, made from its declared options.

Type checkers, editors and the documentation read method_classes.pyi; a test compares it with these classes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import Field
from inspect import Parameter, Signature
from typing import Any, get_type_hints

from fusion_bench.mixins.serialization import auto_register_config

from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import ELSEWHERE, MergeForCausalLM
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declared, meanings
from fusion_slerp.settings.merge_settings import MergeSettings

HOSTS_OWN = ("t", "DOT_THRESHOLD", "epsilon")
"""What FusionBench's own `SlerpForCausalLM` takes by position, the first without a default, before the saving
of the result. A class that has all of them is called as that one is.
"""

SAVING = ("model_save_path", "show_pbar")

BASES = {
    "none": "The pool's entry `_pretrained_`, if there is one, is ignored.",
    "optional": "The pool's entry `_pretrained_`, if there is one, is their base.",
    "needed": "The pool's entry `_pretrained_` is their base, and needed.",
}


def method_class(method: Method) -> type[MergeForCausalLM]:
    """Returns the class of a method, with the declared options as its arguments."""
    signature = Signature(list(_parameters(method)), return_annotation=None)

    def __init__(self: MergeForCausalLM, *args: Any, **kwargs: Any) -> None:
        """Checks the arguments, which the class describes."""
        bound = signature.bind(self, *args, **kwargs)
        MergeForCausalLM.__init__(self, **bound.arguments.get("kwargs", {}))

    __init__.__qualname__ = f"{method.class_name}.__init__"
    __init__.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()} | {
        "return": None
    }
    del __init__.__annotations__["self"]
    __init__.__signature__ = signature  # type: ignore[attr-defined] (which FusionBench reads)
    content = {
        "__module__": "fusion_slerp",  # where configurations name it, and where it serialises itself
        "__doc__": _docstring(method),
        "__init__": __init__,
        "merge_method": method.name,
    }
    return auto_register_config(type(method.class_name, (MergeForCausalLM,), content))


def _parameters(method: Method) -> Iterator[Parameter]:
    """Yields the parameters of `__init__`: FusionBench's, the method's, and those of every method."""
    own, common = declared(method.options), declared(MergeSettings)
    as_host = HOSTS_OWN if own.keys() >= set(HOSTS_OWN) else ()
    by_position = [*as_host, *SAVING] if as_host else []
    known = own | {name: each for name, each in common.items() if name not in ELSEWHERE}
    hints = get_type_hints(method.options) | get_type_hints(MergeSettings) | {SAVING[0]: str | None}
    yield Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    for name in dict.fromkeys([*by_position, *own, *SAVING, *known]):
        kind = Parameter.POSITIONAL_OR_KEYWORD if name in by_position else Parameter.KEYWORD_ONLY
        default = Parameter.empty if name in as_host[:1] else _default(known.get(name))
        yield Parameter(name, kind, default=default, annotation=hints[name])
    yield Parameter("kwargs", Parameter.VAR_KEYWORD, annotation=Any)


def _default(option: Field[Any] | None) -> Any:
    return None if option is None else option.default


def _docstring(method: Method) -> str:
    about = meanings(method.options)
    opening = (
        f"Number of models: {method.models_text}. {BASES[method.base]} Arguments that are not listed here "
        "are those of every method; see `MergeForCausalLM`."
    )
    arguments = [
        textwrap.fill(f"{name}: {about[name]}", 106, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name in declared(method.options)
    ]
    first = f"Merges the models of a pool: {method.summary}."
    return "\n".join([first, "", textwrap.fill(opening, 106), "", "Args:", *arguments, ""])


CLASSES: dict[str, type[MergeForCausalLM]] = {
    each.class_name: method_class(each) for each in METHODS.values()
}
"""By name."""

globals().update(CLASSES)
