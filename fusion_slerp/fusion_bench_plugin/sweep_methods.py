"""The sweeps that a FusionBench configuration names: a class for each method, made as those of merges."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from inspect import Parameter, Signature
from typing import Any

from fusion_bench.mixins.serialization import auto_register_config

from fusion_slerp.fusion_bench_plugin import method_classes
from fusion_slerp.fusion_bench_plugin.sweep_for_causal_lm import SweepForCausalLM
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declared
from fusion_slerp.sweeps.points import MAX_POINTS
from fusion_slerp.sweeps.preparing import AVERAGE_LOSS

OWN = {"metric": AVERAGE_LOSS, "mode": "min", "max_points": MAX_POINTS, "sweep_path": None}
"""The arguments of every sweep besides `vary`, with their defaults."""

ANNOTATIONS = {"vary": Any, "metric": str, "mode": str, "max_points": int, "sweep_path": str | None}


def class_name(method: Method) -> str:
    """Returns the name of a method's sweep, such as `SlerpSweepForCausalLM`."""
    return method.class_name.replace("ForCausalLM", "SweepForCausalLM")


def sweep_class(method: Method) -> type[SweepForCausalLM]:
    """Returns the class of a method's sweep: the arguments of its merge, and those of a sweep."""
    signature = Signature(list(_parameters(method)), return_annotation=None)

    def __init__(self: SweepForCausalLM, *args: Any, **kwargs: Any) -> None:
        """Checks the arguments, which the class describes."""
        bound = signature.bind(self, *args, **kwargs)
        SweepForCausalLM.__init__(self, **bound.arguments.get("kwargs", {}))

    __init__.__qualname__ = f"{class_name(method)}.__init__"
    annotations = {name: each.annotation for name, each in signature.parameters.items() if name != "self"}
    __init__.__annotations__ = {**annotations, "return": None}
    __init__.__signature__ = signature  # type: ignore[attr-defined] (which FusionBench reads)
    content = {
        "__module__": "fusion_slerp",
        "__doc__": _docstring(method),
        "__init__": __init__,
        "merge_method": method.name,
    }
    return auto_register_config(type(class_name(method), (SweepForCausalLM,), content))


def _parameters(method: Method) -> Iterator[Parameter]:
    """Yields the parameters of `__init__`: those of a sweep, then those of the merge, all by keyword."""
    yield Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    for name in ("vary", *OWN):
        default = OWN.get(name, Parameter.empty)
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=ANNOTATIONS[name])
    known = declared(method.options)
    merge = inspect.signature(getattr(method_classes, method.class_name)).parameters
    for name, each in merge.items():
        if each.kind is Parameter.VAR_KEYWORD:
            yield each
        else:
            default = known[name].default if name in known else each.default
            yield each.replace(kind=Parameter.KEYWORD_ONLY, default=default)


def _docstring(method: Method) -> str:
    _, _, of_sweep = (inspect.getdoc(SweepForCausalLM) or "").partition("Attributes:\n")
    before, _, of_merge = (inspect.getdoc(getattr(method_classes, method.class_name)) or "").partition(
        "Args:\n"
    )
    first = f"Evaluates many merges of a pool's models and returns the best: {method.summary}."
    return "\n".join([first, before.partition("\n")[2], "Args:", of_sweep.rstrip(), of_merge])


CLASSES: dict[str, type[SweepForCausalLM]] = {
    class_name(each): sweep_class(each) for each in METHODS.values()
}
"""By name."""

globals().update(CLASSES)
