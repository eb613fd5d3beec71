"""The typed keyword arguments of `merge`: those that are declared, no more and no fewer."""

import inspect
from typing import get_args, get_type_hints

import pytest

from fusion_slerp import merge, plan_merge
from fusion_slerp.api import merge_into_memory
from fusion_slerp.methods import METHODS
from fusion_slerp.options import declared
from fusion_slerp.settings.merge_options import MergeOptions
from fusion_slerp.settings.merge_settings import MergeSettings, option_fields

VARYING = ("t", "weight", "slices")
"""Declared as anything, since what they take is read by code of its own."""


def test_names_and_order_are_those_of_the_declarations():
    own = [name for method in METHODS.values() for name in declared(method.options)]
    common = [name for name in declared(MergeSettings) if name != "method"]
    assert list(MergeOptions.__annotations__) == ["method", *own, *common]


def test_types_are_those_of_the_declarations():
    hints = get_type_hints(MergeOptions)
    assert get_args(hints.pop("method")) == tuple(METHODS)
    classes = [MergeSettings, *(method.options for method in METHODS.values())]
    declared_types = {name: kind for each in classes for name, kind in get_type_hints(each).items()}
    for name in VARYING:
        assert hints.pop(name) != declared_types[name]
    assert hints == {name: declared_types[name] for name in hints}


@pytest.mark.parametrize("function", [merge, plan_merge, merge_into_memory])
def test_signatures_list_every_option_with_its_default(function):
    parameters = inspect.signature(function).parameters
    assert parameters["models"].kind is inspect.Parameter.VAR_POSITIONAL
    for name, each in option_fields().items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == each.default
    assert parameters.keys() - option_fields().keys() <= {"models", "out", "base"}
