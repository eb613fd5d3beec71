"""The files that list every method's options are those that `make method-files` writes."""

from pathlib import Path

import pytest

import fusion_slerp
from fusion_slerp.methods import METHODS, Method
from tests.fusion_bench_plugin.method_files import STUB, YAML, shown, stub_text, yaml_file, yaml_text

HINT = "run `make method-files`"
REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference.md"

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@each_method
def test_yaml_of_every_method(method: Method):
    assert yaml_file(method).read_text(encoding="utf-8") == yaml_text(method), HINT


def test_no_other_file_is_named_after_a_method():
    others = ("_sweep_lm.yaml", "_search_lm.yaml")
    files = {file.name for file in YAML.glob("*_lm.yaml") if not file.name.endswith(others)}
    assert files == {f"{name}_lm.yaml" for name in METHODS}


def test_types_of_the_classes():
    assert STUB.read_text(encoding="utf-8") == stub_text(), HINT


def test_the_package_exports_the_class_of_every_method():
    exported = {name for name in fusion_slerp.__all__ if name.endswith("ForCausalLM")}
    assert exported == {method.class_name for method in METHODS.values()}


@each_method
def test_the_reference_lists_every_class_and_its_options(method: Method):
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    assert f"::: fusion_slerp.{method.class_name}" in lines
    for each in method.options.__mro__[:-1]:
        assert f"::: {each.__module__}.{each.__qualname__}" in lines


def test_defaults_as_yaml():
    values = [True, False, None, 1e-8, 0.9995, "5GB", 3]
    assert [shown(value) for value in values] == ["true", "false", "null", "1e-8", "0.9995", "5GB", "3"]
