"""The models, layers and parameters of a recipe in mergekit's form, before its method gives them a meaning.

A recipe has `models`, or `slices`, or `modules` with one module that has either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fusion_slerp.recipes.model_names import model_name
from fusion_slerp.recipes.recipe import Findings, join


class Level(NamedTuple):
    """The parameters of one level of a recipe.

    Attributes:
        key: The key of the level; empty for the whole recipe.
        parameters: Its parameters.
    """

    key: str
    parameters: Mapping[str, Any]

    def key_of(self, name: str) -> str:
        """The key of a parameter."""
        return join(join(self.key, "parameters"), name)


@dataclass(frozen=True, slots=True)
class Source:
    """A model in a part of the merged model.

    Attributes:
        key: Its key in the recipe.
        model: Its path or Hub id, with `@revision` if it has one.
        layers: First layer, and one past the last; None for all.
        parameters: Its own parameters.
    """

    key: str
    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, Any]

    @property
    def level(self) -> Level:
        """Its own parameters, with their key."""
        return Level(self.key, self.parameters)


@dataclass(frozen=True, slots=True)
class Part:
    """Layers of the merged model: a slice, or all of them if the recipe has `models`.

    Attributes:
        key: Of the slice, or of `models`.
        sources: The models that it is made from.
        base: Its own base_model; None if it has none.
        parameters: Its own parameters; empty for `models`.
        is_slice: Whether it is a slice.
    """

    key: str
    sources: tuple[Source, ...]
    base: str | None = None
    parameters: Mapping[str, Any] | None = None
    is_slice: bool = False

    @property
    def models(self) -> list[str]:
        """Its models, in the order of the recipe."""
        return [source.model for source in self.sources]

    @property
    def level(self) -> Level:
        """Its own parameters, with their key."""
        return Level(self.key, self.parameters or {})

    @property
    def sources_key(self) -> str:
        """The key of its list of models."""
        return join(self.key, "sources") if self.is_slice else self.key


@dataclass(frozen=True, slots=True)
class Body:
    """The parts of a recipe, and the parameters that hold for all of them.

    Attributes:
        parts: The slices, or a single part without a range of layers.
        levels: The levels above the parts, the highest precedence first: the module's, if there is one, and
            the recipe's.
    """

    parts: tuple[Part, ...]
    levels: tuple[Level, ...]

    @property
    def has_slices(self) -> bool:
        """Whether its parts are slices."""
        return self.parts[0].is_slice

    @property
    def models(self) -> list[str]:
        """All models, each once, in the order of the recipe."""
        return list(dict.fromkeys(model for part in self.parts for model in part.models))


def body_of(given: Mapping[str, Any], findings: Findings) -> Body | None:
    """Returns the models, layers and parameters of a recipe; None if they could not be read."""
    whole = Level("", _parameters(given, "", findings))
    if not given.get("modules"):
        parts = _parts(given, "", findings)
        return Body(tuple(parts), (whole,)) if parts else None
    if any(given.get(key) for key in ("models", "slices")):
        findings.fault("modules excludes models and slices", "remove one of them", needed="one of the three")
        return None
    module = _module(given["modules"], findings)
    if module is None:
        return None
    key, content = module
    findings.unknown_keys(content, ("models", "slices", "parameters"), key)
    parts = _parts(content, key, findings)
    own = Level(key, _parameters(content, key, findings))
    return Body(tuple(parts), (own, whole)) if parts else None


def _module(modules: Any, findings: Findings) -> tuple[str, Mapping[str, Any]] | None:
    """The only module and its key; None after a fault."""
    if not _is_mapping(modules, "modules", findings):
        return None
    if len(modules) > 1:
        fix = "merge the language model alone: move its models or slices to the top of the recipe"
        found = ", ".join(map(str, modules))
        findings.fault("modules: more than one is not supported", fix, found=found, needed="one module")
        return None
    name, content = next(iter(modules.items()))
    key = join("modules", name)
    return (key, content) if _is_mapping(content, key, findings) else None


def _parts(given: Mapping[str, Any], key: str, findings: Findings) -> list[Part]:
    """The parts that `models` or `slices` describe; an empty list if they could not be read."""
    forms = [name for name in ("models", "slices") if given.get(name)]
    if len(forms) != 1:
        headline = (
            "models and slices exclude each other" if forms else f"{key or 'the recipe'} names no models"
        )
        fix = "remove one of them" if forms else "list the models: [{model: FOLDER}, {model: FOLDER}]"
        findings.fault(headline, fix, needed="either models or slices")
        return []
    form = forms[0]
    where = join(key, form)
    entries = [
        (name, each)
        for name, each in _entries(given[form], where, findings)
        if _is_mapping(each, name, findings)
    ]
    known = ("model", "parameters")
    if form == "slices":
        known = ("sources", "base_model", "parameters", "residual_weight")
    for name, each in entries:
        findings.unknown_keys(each, known, name)
    if form == "slices":
        parts = [_slice(each, name, findings) for name, each in entries]
        return [part for part in parts if part is not None]
    sources = [_source(each, name, findings, has_layers=False) for name, each in entries]
    return [Part(where, tuple(source for source in sources if source))] if sources and all(sources) else []


def _slice(given: Mapping[str, Any], key: str, findings: Findings) -> Part | None:
    if given.get("residual_weight") is not None:
        findings.note(f"{join(key, 'residual_weight')}: has no effect in mergekit, nor here")
    before = len(findings.faults)
    sources = [
        _source(each, name, findings, has_layers=True)
        for name, each in _entries(given.get("sources"), join(key, "sources"), findings)
    ]
    base = given.get("base_model")
    base = model_name(base, join(key, "base_model"), findings) if base else None
    parameters = _parameters(given, key, findings)
    if len(findings.faults) > before or not all(sources):
        return None
    read = tuple(source for source in sources if source)
    counts = [source.layers[1] - source.layers[0] for source in read if source.layers]
    if len(set(counts)) > 1:
        found = ", ".join(f"{n} of {source.model}" for n, source in zip(counts, read, strict=True))
        headline = f"{join(key, 'sources')} differ in their number of layers"
        findings.fault(headline, "give every layer_range of a slice the same length", found=found)
    return Part(key, read, base, parameters, is_slice=True)


def _source(given: Any, key: str, findings: Findings, *, has_layers: bool) -> Source | None:
    if not _is_mapping(given, key, findings):
        return None
    if has_layers:
        findings.unknown_keys(given, ("model", "layer_range", "parameters"), key)
    model = model_name(given.get("model"), join(key, "model"), findings)
    parameters = _parameters(given, key, findings)
    layers = _range(given.get("layer_range"), join(key, "layer_range"), findings) if has_layers else None
    if model is None or (has_layers and layers is None):
        return None
    return Source(key, model, layers, parameters)


def _range(value: Any, key: str, findings: Findings) -> tuple[int, int] | None:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(i) is int for i in value)
    if is_pair and 0 <= value[0] <= value[1]:
        return value[0], value[1]
    needed = "[first layer, one past the last], counted from 0"
    findings.fault(f"{key} is not a range of layers", f"set {key}: [0, 32]", found=repr(value), needed=needed)
    return None


def slice_of(part: Part, label_of: Mapping[str, str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an entry of our `slices`.

    Args:
        part: The slice.
        label_of: The models' labels, in order.
        own: Its own options of the method; options that are None are left out.
    """
    layers = {source.model: list(source.layers or ()) for source in part.sources}
    ranges = {label: layers[model] for model, label in label_of.items() if model in layers}
    return ranges | {name: value for name, value in own.items() if value is not None}


def _parameters(given: Mapping[str, Any], key: str, findings: Findings) -> Mapping[str, Any]:
    value = given.get("parameters") or {}
    return value if _is_mapping(value, join(key, "parameters"), findings) else {}


def _entries(value: Any, key: str, findings: Findings) -> Sequence[tuple[str, Any]]:
    if isinstance(value, (list, tuple)) and value:
        return [(f"{key}[{i}]", each) for i, each in enumerate(value)]
    findings.fault(f"{key} is not a list", f"list the entries of {key}, each after a dash", found=repr(value))
    return []


def _is_mapping(value: Any, key: str, findings: Findings) -> bool:
    if isinstance(value, Mapping):
        return True
    findings.fault(f"{key} is not a mapping", "write it as NAME: VALUE", found=repr(value))
    return False
