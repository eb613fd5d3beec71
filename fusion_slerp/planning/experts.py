"""Reads the tensors of experts in whatever layout each model stores them.

Each matrix of each expert becomes a source of its own, under the name that a tensor of one expert would have.
So the models are compared and merged matrix by matrix, and the result does not depend on how they were saved.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fusion_slerp.errors import MismatchError, Problem
from fusion_slerp.planning.view import View
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.parts import contiguous, part_of
from fusion_slerp.sources.source import Source
from fusion_slerp.tensor_names.experts import Family, family_of, of_one_expert, renamed
from fusion_slerp.tensor_names.layouts import Fused, Sizes

Tensors = dict[str, Source]


class Fit(NamedTuple):
    """A tensor of all experts, and its layout.

    Attributes:
        name: Its name in the model.
        fused: The layout.
        shape: Its dimensions.
        sizes: The length of each axis.
    """

    name: str
    fused: Fused
    shape: tuple[int, ...]
    sizes: Sizes


class Origin(NamedTuple):
    """Where a model stores a tensor.

    Attributes:
        name: The name of the stored tensor.
        fit: The layout, if it is one of all experts.
        expert: Index of the expert.
        part: Index of the matrix among those of one expert.
    """

    name: str
    fit: Fit | None = None
    expert: int = 0
    part: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's tensors, those of experts matrix by matrix.

    Attributes:
        tensors: By the names that the tensors of single experts have.
        origins: Where those that have another name are stored.
        layouts: How the tensors of experts are stored (under equal names: how they are understood), each way
            with a name as an example.
    """

    tensors: Tensors
    origins: Mapping[str, Origin]
    layouts: Mapping[str, str]


def read_experts(views: Mapping[str, View], by_label: Mapping[str, Tensors]) -> dict[str, Reading]:
    """Returns each model's tensors.

    Models that store every matrix in a tensor of its own, under the same names, are returned unchanged.

    Args:
        views: The models by label.
        by_label: Their tensors.
    """
    families = {label: family_of(view.config) for label, view in views.items()}
    first, *others = by_label.values()
    are_alike = all(tensors.keys() == first.keys() for tensors in others)
    if are_alike and not any(_has_fused(by_label[label], family) for label, family in families.items()):
        return {label: Reading(tensors, {}, {}) for label, tensors in by_label.items()}
    return {
        label: _reading(tensors, families[label], views[label], is_renamed=not are_alike)
        for label, tensors in by_label.items()
    }


def _has_fused(tensors: Mapping[str, Source], family: Family | None) -> bool:
    ends = () if family is None else family.ends
    return bool(ends) and any(name.endswith(ends) for name in tensors)


def _reading(tensors: Tensors, family: Family | None, view: View, is_renamed: bool) -> Reading:
    if family is None:
        return Reading(tensors, {}, _layouts(tensors))
    names = {name: renamed(name, family.renames) if is_renamed else name for name in tensors}
    shapes = {name: source.shape for name, source in tensors.items() if type(source) is TensorEntry}
    fits = _fits(shapes, names, family, view.config)
    read, origins = Tensors(), dict[str, Origin]()
    for name, source in tensors.items():
        if name in fits:
            for new, box, origin in _boxes(source, names[name], fits[name]):
                read[new], origins[new] = box, origin
            continue
        new = (of_one_expert(names[name]) if is_renamed else None) or names[name]
        read[new] = source
        if new != name:
            origins[new] = Origin(name)
    return Reading(read, origins, _layouts(tensors if is_renamed else read))


def _fits(
    of_tensors: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    family: Family,
    config: Mapping[str, Any],
) -> dict[str, Fit]:
    """The layout of each tensor of all experts, if it is understood."""
    ends = family.ends
    modules: dict[str, dict[str, str]] = {}
    for name, new in names.items():
        if new.endswith(ends) and name in of_tensors:
            end = next(end for end in ends if new.endswith(end))
            modules.setdefault(new.removesuffix(end), {})[end] = name
    fits: dict[str, Fit] = {}
    known = family.known(config)
    for stored in modules.values():
        shapes = {end: of_tensors[name] for end, name in stored.items()}
        for end, (fused, sizes) in family.layout_of(shapes, known).items():
            fits[stored[end]] = Fit(stored[end], fused, shapes[end], sizes)
    return fits


def _boxes(source: Source, name: str, fit: Fit) -> Iterator[tuple[str, TensorEntry, Origin]]:
    """Each matrix in a tensor of all experts, with its name, in the order of experts."""
    assert isinstance(source, TensorEntry), fit.name
    module, kind, parts = name.removesuffix(fit.fused.rest), fit.fused.kind, fit.fused.parts
    for box in _boxes_of(fit, source.strides or contiguous(source.shape)):
        part = part_of(source, box.name, box.first, box.shape, box.strides)
        new = f"{module}{box.expert}.{parts[box.part]}.{kind}"
        yield new, part, Origin(fit.name, fit, box.expert, box.part)


class Box(NamedTuple):
    """A matrix of one expert in a tensor of all.

    Attributes:
        name: Its name in reports.
        expert: Index of the expert.
        part: Index of the matrix among those of one expert.
        first: Elements from the tensor's first to its first.
        shape: Its dimensions.
        strides: Elements from one index to the next, by dimension.
    """

    name: str
    expert: int
    part: int
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def boxes_in(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> dict[str, list[Box]]:
    """Returns the matrices in each tensor of all experts of a model, whose tensors have no holes.

    Args:
        shapes: The shapes of its tensors by name.
        config: Its config.
    """
    family = family_of(config)
    if family is None:
        return {}
    fits = _fits(shapes, {name: name for name in shapes}, family, config)
    return {name: list(_boxes_of(fit, contiguous(fit.shape))) for name, fit in fits.items()}


def _boxes_of(fit: Fit, strides: Sequence[int]) -> Iterator[Box]:
    fused, sizes = fit.fused, fit.sizes
    steps = fused.strides(strides, sizes)
    shape = tuple(sizes[axis] for axis in fused.order)
    own = tuple(steps[axis] for axis in fused.order)
    for expert in range(sizes["e"]):
        for part in range(sizes["p"]):
            first = expert * steps["e"] + part * steps.get("p", 0)
            yield Box(box_name(fit, expert, part), expert, part, first, shape, own)


def box_name(fit: Fit, expert: int, part: int | None) -> str:
    """Returns the name of a matrix in reports, or of all of one expert: `experts.gate_up_proj[3].gate`."""
    parts = fit.fused.parts
    matrix = "" if part is None or len(parts) == 1 else f".{parts[part].removesuffix('_proj')}"
    return f"{fit.name}[{expert}]{matrix}"


PER_EXPERT, TOGETHER = "a tensor for each expert", "one tensor for all experts"


def _layouts(tensors: Mapping[str, Source]) -> dict[str, str]:
    """How the tensors of experts are stored, each way with the name of the first."""
    layouts: dict[str, str] = {}
    for name, source in tensors.items():
        before, found, after = name.partition("experts.")
        if found and not before.endswith("shared_") and len(source.shape) > 1:
            layouts.setdefault(PER_EXPERT if after[:1].isdigit() else TOGETHER, name)
    return layouts


def layouts_differ(
    views: Mapping[str, View], readings: Mapping[str, Reading], owners: Collection[Sequence[str]]
) -> list[Problem]:
    """Returns the problem with models whose names still differ on both sides, if their layouts do.

    Args:
        views: The models by label.
        readings: Their tensors.
        owners: The labels of the models that have tensors which others lack, by set.
    """
    first = next(iter(views))
    ways = {label: tuple(sorted(reading.layouts)) for label, reading in readings.items()}
    others = [label for label in views if ways[label] != ways[first] and ways[label] and ways[first]]
    if not others or len(owners) < 2:
        return []
    fields = [
        (
            label,
            f"{', '.join(f'{way} ({name})' for way, name in each.layouts.items())}, {views[label].folder}",
        )
        for label, each in readings.items()
    ]
    fix = _conversion(views[others[0]], is_original=PER_EXPERT in ways[first])
    return [Problem(MismatchError, "the expert layouts differ", tuple(fields), fix)]


def _conversion(view: View, is_original: bool) -> str:
    """A command that saves a model in the other layout."""
    kind = "ImageTextToText" if "vision_config" in view.config else "CausalLM"
    load, old, new = (
        f"AutoModelFor{kind}",
        json.dumps(str(view.folder)),
        json.dumps(f"{view.folder}-converted"),
    )
    code = f"from transformers import AutoTokenizer, {load}; "
    code += f'{load}.from_pretrained({old}, dtype="auto")'
    code += f".save_pretrained({new}, save_original_format={is_original}); "
    code += f"AutoTokenizer.from_pretrained({old}).save_pretrained({new})"
    return f"python -c {shlex.quote(code)}"
