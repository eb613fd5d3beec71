"""The interface of every method, and that only the registry knows them by name."""

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import fusion_slerp
from fusion_slerp.methods import DEFAULT, METHODS, Method
from fusion_slerp.options import declaration, declared, meanings

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
PACKAGE = Path(fusion_slerp.__file__).parent


def test_the_first_is_the_default():
    assert next(iter(METHODS)) == DEFAULT == "slerp"
    assert all(method.name == name for name, method in METHODS.items())


@each_method
def test_every_option_is_declared_with_a_meaning_and_a_check(method: Method):
    assert is_dataclass(method.options)
    names = [each.name for each in fields(method.options)]
    assert list(declared(method.options)) == names
    assert list(meanings(method.options)) == names
    for name, each in declared(method.options).items():
        about = declaration(each)
        assert about.check.needed, name
        assert about.panel == "Merging", name
        assert not about.check.is_fine(object()), name
        if not about.is_schedule:
            assert about.check.is_fine(each.default), name
            assert about.check.is_fine(about.example), name


@each_method
def test_its_options_and_parameters_are_immutable_values(method: Method):
    assert method.options() == method.options()
    labels = [*"abc"[: method.n_models[0]], *["base"] * (method.base == "needed")]
    values = {
        name: dict.fromkeys(labels, each.default) if declaration(each).is_per_model else each.default
        for name, each in declared(method.options).items()
        if declaration(each).is_schedule
    }
    one, other = (method.parameters(method.options(), values, labels) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert set(method.used(one)) <= set(range(len(labels)))
    certain, most = method.passes(one)
    assert 0 <= certain <= most


@each_method
def test_how_many_models_it_merges(method: Method):
    least, most = method.n_models
    assert not method.takes(least - 1)
    assert method.takes(least)
    assert most is None or not method.takes(most + 1)
    assert str(least) in method.models_text
    assert method.name in method.summary.lower()


# Its name.

WORDS_OF_THE_LANGUAGE = {"linear": r"linear (between|interpolation|out_proj)", "ties": r"^ties $"}
"""Phrases in which a method's name is an ordinary word."""

KNOWING = ("methods", "recipes", "fusion_bench_plugin")
"""Packages that name methods: a recipe or a plugin class belongs to one."""

TYPES = PACKAGE / "settings/merge_options.py"
"""The typed options list the methods' names; a test compares them with the registry."""


def names_in(source: str, name: str) -> list[str]:
    """The strings and identifiers of a module, without docstrings, that contain a method's name as a word."""
    tree = ast.parse(source)
    docs = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            expressions = (part.value for part in body if isinstance(part, ast.Expr))
            docs |= {id(each) for each in expressions if isinstance(each, ast.Constant)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]
    texts += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    texts += [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    allowed = WORDS_OF_THE_LANGUAGE.get(name, "(?!)")
    return [text for text in texts if re.search(rf"\b{name}\b", re.sub(allowed, "", text))]


@pytest.mark.parametrize("name", [name for name in METHODS if name != DEFAULT])
def test_nobody_else_knows_its_name(name):
    """A new method is a file and a line in the registry; `slerp` is also the name of a function of ours."""
    found = {
        str(file.relative_to(PACKAGE)): texts
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).parts[0] not in KNOWING
        and file != TYPES
        and (texts := names_in(file.read_text(encoding="utf-8"), name))
    }
    assert found == {}


def test_the_search_for_names_finds_them():
    source = '"""linear."""\nfix = "or linear"\ndef f():\n    "linear"\n    return linear, x.linear\n'
    assert names_in(source, "linear") == ["or linear", "linear", "linear"]
    assert names_in('text = "nonlinear, linearly, linear between them"', "linear") == []
