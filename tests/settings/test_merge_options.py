"""The typed keyword arguments of `merge`: those that are declared, no more and no fewer."""

import inspect
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from fusion_slerp import merge, plan_merge
from fusion_slerp.api import merge_into_memory
from fusion_slerp.methods import METHODS
from fusion_slerp.options import declaration, declared
from fusion_slerp.settings.merge_options import MergeOptions
from fusion_slerp.settings.merge_settings import MergeSettings, fields_by_method, option_fields
from fusion_slerp.settings.signatures import BY_METHOD

VARYING = {
    "slices",
    *(
        name
        for name, of in fields_by_method().items()
        if any(declaration(f).is_schedule for f in of.values())
    ),
}
"""Declared as anything, since what they take is read by code of its own."""


def test_names_and_order_are_those_of_the_declarations():
    own = [name for method in METHODS.values() for name in declared(method.options)]
    common = [name for name in declared(MergeSettings) if name != "method"]
    assert list(MergeOptions.__annotations__) == ["method", *dict.fromkeys(own), *common]


def test_types_are_those_of_the_declarations():
    hints = get_type_hints(MergeOptions)
    assert get_args(hints.pop("method")) == tuple(METHODS)
    for each in [MergeSettings, *(method.options for method in METHODS.values())]:
        for name, kind in get_type_hints(each).items():
            if name in VARYING:
                assert hints[name] != kind, name
            elif get_origin(kind) is Literal and name != "method":  # of a method that knows fewer names
                assert set(get_args(kind)) <= set(get_args(hints[name])), name
            elif name in hints:
                assert hints[name] == kind, name


@pytest.mark.parametrize("function", [merge, plan_merge, merge_into_memory])
def test_signatures_list_every_option_with_its_default(function):
    parameters = inspect.signature(function).parameters
    assert parameters["models"].kind is inspect.Parameter.VAR_POSITIONAL
    for name, each in option_fields().items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        defaults = {field.default for field in fields_by_method().get(name, {"": each}).values()}
        assert parameters[name].default == (each.default if len(defaults) == 1 else BY_METHOD), name
    assert repr(BY_METHOD) == "<by method>"
    assert parameters.keys() - option_fields().keys() <= {"models", "out", "base"}
