"""Recipes of several documents that build on one another, as mergekit-multi runs them.

    name: early                     # a document refers to an earlier one by its name
    merge_method: linear
    models: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 1}}]
    ---
    merge_method: slerp             # the document without a name makes the merged model
    base_model: early
    models: [{model: early}, {model: C}]
    parameters: {t: 0.5}

The order of the documents has no meaning. If all have names, the merged model is the one that no other uses.

Source: https://github.com/arcee-ai/mergekit, release 0.1.5, scripts/multimerge.py. We differ in requiring the
merged model to use every document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusion_slerp.errors import SettingsError
from fusion_slerp.paths import Named
from fusion_slerp.recipes.mergekit_form import from_mergekit
from fusion_slerp.recipes.reading import documents
from fusion_slerp.recipes.recipe import Findings, Recipe

_NAME = re.compile(r"\w[\w.-]*")
"""The name of a folder that is the same on every system."""

CIRCLE = "the documents use one another in a circle"


@dataclass(frozen=True, slots=True)
class Step:
    """A document of a recipe.

    Attributes:
        name: Its name; None for the document that makes the merged model, unless it has one.
        recipe: Its recipe; other documents stand for models under their names.
    """

    name: str | None
    recipe: Recipe

    @property
    def used(self) -> set[str]:
        """All models that it names, and the name of its tokenizer."""
        return {*self.recipe.named.values(), str(self.recipe.options.get("tokenizer"))}

    def in_folders(self, folders: Mapping[str, Path]) -> Step:
        """The step with folders in place of the names of other documents."""

        def folder(model: str) -> str:
            return str(folders[model]) if model in folders else model

        recipe = self.recipe
        options = dict(recipe.options)
        if options.get("tokenizer") in folders:
            options["tokenizer"] = folder(options["tokenizer"])
        base = None if recipe.base is None else folder(recipe.base)
        models = tuple(map(folder, recipe.models))
        return replace(self, recipe=replace(recipe, models=models, base=base, options=options))


def read_chain(path: Named) -> tuple[Step, ...]:
    """Returns the documents of a recipe in the order in which they are merged; the last is the merged model.

    Raises:
        SettingsError: The file cannot be read, or a document is invalid or not supported, or their names do
            not fit together; all faults at once.
    """
    return parse_chain(documents(path), str(path))


def parse_chain(given: Sequence[Any], name: str = "recipe") -> tuple[Step, ...]:
    """As `read_chain`, from the contents of the documents.

    Raises:
        SettingsError: As `read_chain`.
    """
    findings = Findings(name)
    steps = [step for i, each in enumerate(given) if (step := _step(each, i, findings)) is not None]
    findings.raise_faults()
    _check_names(steps, findings)
    findings.raise_faults()
    last = _last(steps, findings)
    ordered = [] if last is None else list(_ordered(last, {step.name: step for step in steps}, (), findings))
    for step in steps:
        if last is not None and step not in ordered and not findings.faults:
            fix = f"remove the document {step.name}, or put it in a file of its own"
            findings.fault(f"the merged model does not use the document {step.name}", fix)
    findings.raise_faults()
    return tuple(ordered)


def _step(given: Any, index: int, findings: Findings) -> Step | None:
    number = f"document {index + 1}"
    if not isinstance(given, Mapping) or "merge_method" not in given:
        fix = "write each document in mergekit's form, or put each recipe in its own file"
        findings.fault(f"{number} is not a recipe of mergekit", fix, needed="merge_method in each document")
        return None
    name = given.get("name")
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        needed = "the name of a folder: letters, digits, '.', '-' and '_'"
        findings.fault(f"{number}: invalid name", "set name: step-1", found=repr(name), needed=needed)
        return None
    content = {key: each for key, each in given.items() if key != "name"}
    where = f"{findings.recipe}, {number}" + (f" ({name})" if name else "")
    try:
        return Step(name, from_mergekit(content, where))
    except SettingsError as error:
        findings.faults.append(error)
        return None


def _check_names(steps: Sequence[Step], findings: Findings) -> None:
    names = [step.name for step in steps]
    for name in dict.fromkeys(names):
        if names.count(name) > 1 and name is None:
            fix = "give each a name but the one that makes the merged model"
            findings.fault(f"{names.count(None)} documents have no name", fix, needed="at most one")
        elif names.count(name) > 1:
            findings.fault(f"{names.count(name)} documents have the name {name}", "give each its own name")


def _last(steps: Sequence[Step], findings: Findings) -> Step | None:
    """The document that makes the merged model."""
    used = {name for step in steps for name in step.used}
    ends = [step for step in steps if step.name is None] or [step for step in steps if step.name not in used]
    if len(ends) == 1:
        return ends[0]
    found = ", ".join(str(step.name) for step in ends or steps)
    fix = "remove the name of the document that makes the merged model"
    headline = "several documents are used by no other" if ends else CIRCLE
    findings.fault(headline, fix, found=found, needed="one document that makes the merged model")
    return None


def _ordered(
    step: Step, by_name: Mapping[str | None, Step], above: tuple[Step, ...], findings: Findings
) -> Iterator[Step]:
    """Yields the documents that a document is made from, each once and after its own, and then itself."""
    if step in above:
        found = " uses ".join(str(each.name) for each in (*above[above.index(step) :], step))
        findings.fault(CIRCLE, "name another model", found=found)
        return
    seen: list[Step] = []
    for other in by_name.values():
        if other.name in step.used:
            for each in _ordered(other, by_name, (*above, step), findings):
                if each not in seen:
                    seen.append(each)
                    yield each
    yield step
