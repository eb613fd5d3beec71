"""The sweeps and searches that a FusionBench configuration names: classes for each method, as of merges."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any, get_type_hints

from fusion_bench.mixins.serialization import auto_register_config

from fusion_slerp.fusion_bench_plugin import method_classes
from fusion_slerp.fusion_bench_plugin.search_for_causal_lm import SearchForCausalLM
from fusion_slerp.fusion_bench_plugin.sweep_for_causal_lm import SweepForCausalLM
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declared
from fusion_slerp.searches.pruning import STANDARD_ERRORS
from fusion_slerp.searches.sampling import TPE
from fusion_slerp.sweeps.points import MAX_POINTS


@dataclass(frozen=True, slots=True)
class Kind:
    """What the classes of sweeps, or of searches, share.

    Attributes:
        base: The class that they are derived from, whose attributes describe its own arguments.
        word: What their names have before `ForCausalLM`.
        summary: The first words of their docstrings.
        own: Their arguments besides those of the merge, with their defaults; `vary` comes first.
    """

    base: type[SweepForCausalLM]
    word: str
    summary: str
    own: Mapping[str, Any]


METRIC = {"vary": Parameter.empty, "metric": None, "mode": None}

SWEEPS = Kind(
    SweepForCausalLM,
    "Sweep",
    "Evaluates many merges of a pool's models and returns the best",
    {**METRIC, "max_points": MAX_POINTS, "sweep_path": None},
)
SEARCHES = Kind(
    SearchForCausalLM,
    "Search",
    "Searches for the best merge of a pool's models and returns it",
    {
        **METRIC,
        **dict.fromkeys(("trials", "evaluations", "minutes")),
        "sampler": TPE,
        "sampler_seed": 0,
        "prune": STANDARD_ERRORS,
        "search_path": None,
    },
)


def class_name(method: Method, kind: Kind = SWEEPS) -> str:
    """Returns the name of a method's sweep or search, such as `SlerpSweepForCausalLM`."""
    return method.class_name.replace("ForCausalLM", f"{kind.word}ForCausalLM")


def made_class(method: Method, kind: Kind) -> type[SweepForCausalLM]:
    """Returns the class of a method's sweep or search: the arguments of its merge, and those of its kind."""
    signature = Signature(list(_parameters(method, kind)), return_annotation=None)

    def __init__(self: SweepForCausalLM, *args: Any, **kwargs: Any) -> None:
        """Checks the arguments, which the class describes."""
        bound = signature.bind(self, *args, **kwargs)
        kind.base.__init__(self, **bound.arguments.get("kwargs", {}))

    __init__.__qualname__ = f"{class_name(method, kind)}.__init__"
    annotations = {name: each.annotation for name, each in signature.parameters.items() if name != "self"}
    __init__.__annotations__ = {**annotations, "return": None}
    __init__.__signature__ = signature  # type: ignore[attr-defined] (which FusionBench reads)
    content = {
        "__module__": "fusion_slerp",
        "__doc__": _docstring(method, kind),
        "__init__": __init__,
        "merge_method": method.name,
    }
    return auto_register_config(type(class_name(method, kind), (kind.base,), content))


def _parameters(method: Method, kind: Kind) -> Iterator[Parameter]:
    """Yields the parameters of `__init__`: those of its kind, then those of the merge, all by keyword."""
    yield Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    hints = get_type_hints(kind.base)
    for name, default in kind.own.items():
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
    known = declared(method.options)
    merge = inspect.signature(getattr(method_classes, method.class_name)).parameters
    for name, each in merge.items():
        if each.kind is Parameter.VAR_KEYWORD:
            yield each
        else:
            default = known[name].default if name in known else each.default
            yield each.replace(kind=Parameter.KEYWORD_ONLY, default=default)


def _docstring(method: Method, kind: Kind) -> str:
    _, _, of_kind = (inspect.getdoc(kind.base) or "").partition("Attributes:\n")
    before, _, of_merge = (inspect.getdoc(getattr(method_classes, method.class_name)) or "").partition(
        "Args:\n"
    )
    first = f"{kind.summary}: {method.summary}."
    return "\n".join([first, before.partition("\n")[2], "Args:", of_kind.rstrip(), of_merge])


CLASSES: dict[str, type[SweepForCausalLM]] = {
    class_name(method, kind): made_class(method, kind)
    for kind in (SWEEPS, SEARCHES)
    for method in METHODS.values()
}
"""By name."""

globals().update(CLASSES)
