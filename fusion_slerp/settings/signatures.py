"""The signatures of functions that take the options of a merge."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fusion_slerp.settings.merge_options import MergeOptions
from fusion_slerp.settings.merge_settings import fields_by_method, option_fields

P = ParamSpec("P")
R = TypeVar("R")


class _ByMethod:
    """In a signature, the default of an option that has another one in another method."""

    def __repr__(self) -> str:
        return "<by method>"


BY_METHOD = _ByMethod()


def lists_options(function: Callable[P, R]) -> Callable[P, R]:
    """Shows the options by name to those who ask for a function's signature, as notebooks do to complete
    them.
    """
    own = inspect.signature(function)
    named = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(name), annotation=kind)
        for name, kind in MergeOptions.__annotations__.items()
    ]
    function.__signature__ = own.replace(parameters=[*named, *added])  # type: ignore[attr-defined]
    return function


def _default(name: str) -> Any:
    """The default of an option, if all methods that have it agree on it."""
    of_methods = fields_by_method().get(name) or {"": option_fields()[name]}
    first, *others = (each.default for each in of_methods.values())
    return first if all(other == first for other in others) else BY_METHOD
