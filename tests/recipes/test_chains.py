"""Recipes of several documents: their order, their names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion_slerp import SettingsError
from fusion_slerp.recipes.chains import Step, parse_chain, read_chain


def linear(*models: str, name: str | None = None, **more: object) -> dict[str, object]:
    """A document: the average of some models."""
    named = {} if name is None else {"name": name}
    listed = [{"model": model, "parameters": {"weight": 1}} for model in models]
    return {**named, "merge_method": "linear", "models": listed, **more}


def names(steps: tuple[Step, ...]) -> list[str | None]:
    return [step.name for step in steps]


def test_documents_are_merged_after_those_that_they_use():
    last = linear("second", "first")
    steps = parse_chain([last, linear("first", "C", name="second"), linear("A", "B", name="first")])
    assert names(steps) == ["first", "second", None]
    assert steps[-1].recipe.models == ("second", "first")


def test_if_all_have_names_the_last_is_the_one_that_no_other_uses():
    steps = parse_chain([linear("first", "C", name="second"), linear("A", "B", name="first")])
    assert names(steps) == ["first", "second"]


def test_a_document_used_twice_is_merged_once():
    steps = parse_chain(
        [
            linear("A", "B", name="root"),
            linear("root", "C", name="left"),
            linear("root", "D", name="right"),
            linear("left", "right", "root"),
        ]
    )
    assert names(steps) == ["root", "left", "right", None]


def test_a_base_and_a_tokenizer_may_be_documents():
    first, base = linear("A", "B", name="first"), linear("C", name="base")
    slerp = {"merge_method": "slerp", "base_model": "base", "models": [{"model": "X"}]}
    steps = parse_chain([first, base, slerp | {"parameters": {"t": 0.5}, "tokenizer_source": "first"}])
    assert names(steps) == ["first", "base", None]
    placed = steps[-1].in_folders({"first": Path("/x/first"), "base": Path("/x/base")}).recipe
    assert placed.models == ("/x/base", "X")
    assert placed.options["tokenizer"] == "/x/first"


def test_a_file(tmp_path):
    text = "{name: first, merge_method: linear, models: [{model: A}], parameters: {weight: 1}}"
    more = "{merge_method: linear, models: [{model: first}], parameters: {weight: 1}}"
    (tmp_path / "recipe.yml").write_text(f"---\n{text}\n---\n{more}\n---\n")
    assert names(read_chain(tmp_path / "recipe.yml")) == ["first", None]


@pytest.mark.parametrize(
    ("documents", "headline"),
    [
        ([linear("A"), linear("B")], "2 documents have no name"),
        ([linear("A", name="x"), linear("B", name="x")], "2 documents have the name x"),
        ([linear("A", name="x"), linear("B", name="y")], "several documents are used by no other"),
        ([linear("y", name="x"), linear("x", name="y")], "the documents use one another in a circle"),
        ([linear("x"), linear("y", name="x"), linear("x", name="y")], "the documents use one another"),
        ([linear("A"), linear("B", name="x")], "the merged model does not use the document x"),
        ([linear("A", name="../x"), linear("B")], "document 1: invalid name"),
        ([linear("A"), {"name": "x"}], "document 2 is not a recipe of mergekit"),
        ([linear("A"), None], "document 2 is not a recipe of mergekit"),
    ],
)
def test_documents_that_do_not_fit_together(documents, headline):
    with pytest.raises(SettingsError) as caught:
        parse_chain(documents, "recipe.yml")
    assert str(caught.value).startswith(headline)
    assert "\nFix: " in str(caught.value)


def test_faults_of_all_documents_are_raised_together():
    with pytest.raises(SettingsError) as caught:
        parse_chain([linear("A", name="x", dtype="float33"), linear("x", paramters={})], "recipe.yml")
    message = str(caught.value)
    assert message.startswith("2 problems, nothing was read or written:")
    assert "recipe: recipe.yml, document 1 (x)\n" in message
    assert "recipe: recipe.yml, document 2\n" in message
