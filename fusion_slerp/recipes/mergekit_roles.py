"""The roles of a recipe's models: a, b, c, ... and the base.

`base_model` means three things in mergekit. With slerp it is one of the two models, and t = 0. With methods
that take an ancestor it is that, whether or not the models list it. With all others it is one of the models
and gives the merged model its config and tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion_slerp.errors import listed
from fusion_slerp.recipes.mergekit_body import Body, Part
from fusion_slerp.recipes.mergekit_methods import Counterpart
from fusion_slerp.recipes.model_names import model_name
from fusion_slerp.recipes.recipe import Findings, join
from fusion_slerp.settings.labels import BASE, labels


@dataclass(frozen=True, slots=True)
class Roles:
    """The models of a recipe.

    Attributes:
        models: Models a, b, c, ...
        base: The ancestor; None without one.
    """

    models: tuple[str, ...]
    base: str | None = None

    @property
    def label_of(self) -> dict[str, str]:
        """The models' labels, the base's last."""
        of_models = dict(zip(self.models, labels(len(self.models)), strict=True))
        return of_models if self.base is None else of_models | {self.base: BASE}


def roles_of(given: Mapping[str, Any], body: Body, how: Counterpart, findings: Findings) -> Roles | None:
    """Returns the models of a recipe by their role; None after a fault."""
    before = len(findings.faults)
    base = model_name(given["base_model"], "base_model", findings) if given.get("base_model") else None
    if given.get("base_model") and base is None:
        return None
    if how.has_base_as_a:
        models = _pair(body, base, findings)
        return Roles(models) if models else None
    roles = (
        _with_ancestor(body, base, how, findings) if how.takes_base else _listed(body, base, how, findings)
    )
    return roles if len(findings.faults) == before else None


def _pair(body: Body, base: str | None, findings: Findings) -> tuple[str, ...] | None:
    """Models a and b: a is the base."""
    first = base or _base_of_slices(body.parts)
    if first is None:
        example = body.models[0]
        findings.fault(
            "base_model is missing", f"set base_model: {example}", needed="the model that is t = 0"
        )
        return None
    if body.has_slices and not _pairs_fit(body.parts, base, findings):
        return None
    named = [model for part in body.parts for model in part.models]
    models = list(dict.fromkeys([first, *named]))
    if len(models) == 2 and (body.has_slices or len(named) == len(set(named))):
        return tuple(models)
    models = models if len(models) != 2 else named if first in named else [first, *named]
    fix = "name two models, each with the same spelling everywhere"
    headline = f"a merge has 2 models, not {len(models)}"
    findings.fault(headline, fix, found=listed(models), needed="a base and one other")
    return None


def _base_of_slices(parts: tuple[Part, ...]) -> str | None:
    """The base_model that all slices have."""
    bases = {part.base for part in parts}
    return bases.pop() if len(bases) == 1 else None


def _pairs_fit(parts: tuple[Part, ...], base: str | None, findings: Findings) -> bool:
    """Whether every slice is made from two models, one of which is its base."""
    before = len(findings.faults)
    for part in parts:
        key = part.sources_key
        if len(part.sources) != 2:
            found, fix = f"{len(part.sources)} models", "name two models with a layer_range each"
            findings.fault(f"{key} is not a pair", fix, found=found, needed="two models")
        elif part.models[0] == part.models[1]:
            findings.fault(f"{key} names one model twice", "name two models", found=part.models[0])
        elif (part.base or base) not in part.models:
            _lacks_base(part, part.base or base, findings)
    return len(findings.faults) == before


def _lacks_base(part: Part, base: str | None, findings: Findings) -> None:
    fix = f"name {base} there, or correct base_model: the spelling must be the same"
    findings.fault(f"{part.sources_key} lacks the base_model", fix, found=listed(part.models))


def _listed(body: Body, base: str | None, how: Counterpart, findings: Findings) -> Roles:
    """The models of a method without an ancestor: the base comes first."""
    for part in body.parts:
        _check_part(part, part.models, how, findings)
        if part.base:
            findings.note(f"{join(part.key, 'base_model')}: has no effect in mergekit's {how.name}, nor here")
    if base is not None and base not in body.models:
        fix = "remove base_model, or list it among the models"
        needed = f"one of the models: {how.name} has no use for any other"
        if how.parameters and how.parameters[0].is_required:
            fix = "remove base_model, or list it with a weight among the models"
            needed = f"one of the models: mergekit's {how.name} has no weight for any other"
        findings.fault("base_model is not one of the models", fix, found=base, needed=needed)
    models = tuple(dict.fromkeys([base or body.models[0], *body.models]))
    if base is None and not (how.per_slice == 1 and len(models) == 1):
        _note_first(how, findings)
    return Roles(models)


def _note_first(how: Counterpart, findings: Findings) -> None:
    findings.note(
        f"{how.name} without base_model: config, types and tokenizer are by default the first model's"
    )


def _with_ancestor(body: Body, base: str | None, how: Counterpart, findings: Findings) -> Roles:
    """The models of a method that takes an ancestor; the base may be listed, but without parameters."""
    base = base or _base_of_slices(body.parts)
    if base is None and how.method.base == "needed":
        needed = "the models' common ancestor"
        findings.fault("base_model is missing", "set base_model: FOLDER, or a Hub id", needed=needed)
    for part in body.parts:
        if part.base not in (None, base):
            fix = f"set base_model: {part.base} for the whole recipe"
            headline = f"{join(part.key, 'base_model')}: a base for a single slice is not supported"
            findings.fault(headline, fix, found=part.base)
        elif body.has_slices and base is not None and base not in part.models:
            _lacks_base(part, base, findings)
        _check_base(part, base, findings)
        _check_part(part, [model for model in part.models if model != base], how, findings)
    if base is None:
        _note_first(how, findings)
    return Roles(tuple(model for model in body.models if model != base), base)


def _check_base(part: Part, base: str | None, findings: Findings) -> None:
    """Refuses parameters of the base, which mergekit ignores."""
    sources = [source for source in part.sources if source.model == base]
    for source in sources:
        if source.parameters:
            headline = f"{join(source.key, 'parameters')}: the base has no parameters"
            fix = "remove them; if this model is to be merged as well, name another base_model"
            needed = "the base without parameters: the others' differences are from it"
            findings.fault(headline, fix, found=", ".join(map(str, source.parameters)), needed=needed)
    if len(sources) > 1:
        findings.fault(f"{part.sources_key} names the base twice", "name it once", found=base)


def _check_part(part: Part, models: list[str], how: Counterpart, findings: Findings) -> None:
    """Checks the models of a part without its base: their number, and that none occurs twice."""
    twice = [model for model in dict.fromkeys(models) if models.count(model) > 1]
    if twice:
        headline = f"{part.sources_key} names one model twice"
        findings.fault(headline, f"name it once{_with_one_weight(how)}", found=twice[0])
        return
    n, method = len(models), how.method
    if how.per_slice not in (None, n):
        fix = f"name {how.per_slice} in each slice: several slices stack their layers"
        found = f"{n} models: {listed(models)}"
        findings.fault(f"{part.sources_key} does not fit {how.name}", fix, found=found, needed="one model")
    elif how.per_slice is None and not method.takes(n):
        apart = ", not counting the base" if how.takes_base else ""
        findings.fault(
            f"{part.sources_key} does not fit {how.name}",
            f"name {method.models_text} models there",
            found=f"{n}{': ' * bool(n)}{listed(models) if n else ''}",
            needed=f"{method.models_text} models{apart}",
        )


def _with_one_weight(how: Counterpart) -> str:
    return ", with one weight" if any(each.name == "weight" for each in how.parameters) else ""
