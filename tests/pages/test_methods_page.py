"""The page about methods: a row and a section for each, with what the registry says of it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declared
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import make_settings
from tests.every_method import each_method, effective_options, n_models

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| \[`(\w+)`\]\(#(\w+)\) \| ([^|]+) \| (\w+) \| ([\d to]+) \| ([^|]+) \|$", re.MULTILINE)
ROWS = {name: cells for name, *cells in ROW.findall(PAGE)}


def n_reads(method: Method) -> str:
    """How often a large tensor is read with every option at its example."""
    settings = make_settings(**effective_options(method))
    names = labels(n_models(method)) + ([BASE] if method.base != "none" else [])
    values = {
        name: {label: _first_number(schedule.of(label)) for label in names if label != BASE}
        if hasattr(schedule, "of")
        else _first_number(schedule)
        for name, schedule in settings.schedules.items()
    }
    parameters = method.parameters(settings.parameters, values, names)
    least, most = (1 + n for n in method.n_passes(parameters))
    return str(least) if method.is_in_span or least == most else f"{least} to {most}"


def _first_number(schedule) -> float:
    return schedule.at("x", 0.0)


def test_the_table_has_every_method_in_the_order_of_the_sections():
    assert sorted(ROWS) == sorted(METHODS)
    sections = [name for name in re.findall(r"^## (\w+)$", PAGE, re.MULTILINE) if name in METHODS]
    assert sections == list(ROWS)


@each_method
def test_a_row_says_what_the_registry_says(method):
    anchor, models, base, reads, _ = ROWS[method.name]
    least, most = method.n_models
    expected = f"{least} or more" if least > 1 else "any number"
    assert models.removesuffix(" in each slice") == (expected if most is None else str(least))
    assert (anchor, base, reads) == (method.name, method.base, n_reads(method))


@each_method
def test_a_section_is_the_docstring_of_the_method_s_module(method):
    section = PAGE.partition(f"\n## {method.name}\n")[2].partition("\n## ")[0]
    (module, *_) = re.findall(r"^::: ([\w.]+)$", section, re.MULTILINE)
    assert import_module(module).__doc__
    assert method in vars(import_module(module)).values()


@each_method
def test_its_options_are_in_the_reference(method):
    """In the class that declares them, of those that the method's options inherit from."""
    reference = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    for owner in method.options.__mro__[:-1]:
        if set(vars(owner).get("__annotations__", {})) & set(declared(method.options)):
            assert f"::: {owner.__module__}.{owner.__name__}\n" in reference


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.base != "none"])
def test_a_docstring_says_what_the_method_is_for_and_where_it_is_from(name):
    (module,) = re.findall(rf"^## {name}\n(?:.*\n)*?::: ([\w.]+)$", PAGE, re.MULTILINE)
    text = import_module(module).__doc__ or ""
    assert "Source:" in text
    assert re.search(r"^    \S", text, re.MULTILINE), "a formula"
