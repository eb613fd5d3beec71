"""Matches the tensors of the models by name.

Names may differ in these ways: wrappers that were saved with a model; the prefix of the language model, which
depends on the class and the release that saved it; a head that one model stores and another ties to its
embedding; buffers that only older releases store; layers for multi-token prediction; the parts of a larger
model next to its language model; and a tensor that some models lack, with `missing: copy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fusion_slerp.errors import CheckpointError, Problem, listed
from fusion_slerp.planning.experts import layouts_differ, read_experts
from fusion_slerp.planning.heads import resolve_heads, untie
from fusion_slerp.planning.language_part import other_parts
from fusion_slerp.planning.layout import Whole
from fusion_slerp.planning.restored_experts import restored
from fusion_slerp.planning.unmatched import by_owners, copied, names_differ
from fusion_slerp.planning.view import View
from fusion_slerp.sources.source import Source
from fusion_slerp.tensor_names import is_old_buffer
from fusion_slerp.tensor_names.prefixes import adapter_parts, beginnings, renamed_like, without_wrappers
from fusion_slerp.vocabulary.rows import Owners

Tensors = dict[str, Source]


class Match(NamedTuple):
    """One tensor of the merged model and its sources.

    Attributes:
        name: Its name in the merged model.
        of: The tensor in each model that has it, by label.
    """

    name: str
    of: Mapping[str, Source]

    @property
    def first(self) -> Source:
        """The tensor of the first model that has it: the merged model inherits its type."""
        return next(iter(self.of.values()))

    def made_by(self, makers: Owners) -> Match:
        """Returns the same with these models only; with the first that has it if none of these does."""
        own = {label: self.of[label] for label in makers if label in self.of}
        return self._replace(of=own or dict(list(self.of.items())[:1]))


@dataclass(frozen=True, slots=True)
class Matching:
    """All tensors of the merged model.

    Attributes:
        matches: In the order of model a's files; tensors that model a lacks come last.
        tied: Whether the merged model's head is its embedding; None if no config states it.
        remarks: Differences that were resolved, one line each.
        problems: Tensors without a counterpart.
        wholes: By the names of matches that are a part of a tensor of all experts: that tensor.
    """

    matches: tuple[Match, ...]
    tied: bool | None
    remarks: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    wholes: Mapping[str, Whole] = field(default_factory=dict)


def match_tensors(
    views: Mapping[str, View], missing: str = "error", configs_fit: bool = True, ends_differ: bool = False
) -> Matching:
    """Matches the tensors of the models.

    Args:
        views: The models by label; the names of the first are the merged model's.
        missing: `"copy"` allows tensors that some models lack.
        configs_fit: Whether the configs allow a merge, so that copying may be advised.
        ends_differ: Whether the head is made from other models than the embedding.
    """
    by_label: dict[str, Tensors] = {}
    remarks: list[str] = []
    for label, view in views.items():
        by_label[label], more = _unwrapped(view)
        remarks += more
    problems = _with_adapters(views, by_label)
    readings = read_experts(views, by_label)
    by_label = {label: reading.tensors for label, reading in readings.items()}
    first, *others = by_label
    for label in others:
        by_label[label], more = _renamed(by_label[first], by_label[label], views[label])
        remarks += more
    tied, more = resolve_heads(views, by_label)
    remarks += more
    if tied and ends_differ:
        tied = False
        more, no_head = untie(views, by_label)
        remarks += more
        problems += no_head
    remarks += _without_old_buffers(views, by_label)
    alone, more = other_parts(views, by_label)
    remarks += more
    only = by_owners(by_label, alone)
    if clashes := layouts_differ(views, readings, only):
        problems += clashes
    elif missing == "copy":
        remarks += copied(views, only)
    elif only:
        problems.append(names_differ(views, only, configs_fit))
    names = dict.fromkeys(name for tensors in by_label.values() for name in tensors)
    matches = [
        Match(name, {label: tensors[name] for label, tensors in by_label.items() if name in tensors})
        for name in names
    ]
    matches, wholes, uneven = restored(matches, readings)
    return Matching(tuple(matches), tied, tuple(remarks), (*problems, *uneven), wholes)


def _unwrapped(view: View) -> tuple[Tensors, list[str]]:
    """A model's tensors under the names that the model itself gives them."""
    names = without_wrappers(view.tensors.keys())
    if not names:
        return dict(view.tensors), []
    old, new = next(iter(names.items()))
    remark = f"{view.source}: {len(names)} tensors have the names that a wrapper gave them"
    remark += f"; {old} is read as {new}"
    return {names.get(n, n): source for n, source in view.tensors.items()}, [remark]


def _with_adapters(views: Mapping[str, View], by_label: Mapping[str, Tensors]) -> list[Problem]:
    """A problem for each model with LoRA layers, whose factors must not be merged one by one."""
    problems = []
    for label, tensors in by_label.items():
        if names := adapter_parts(tensors):
            fields = (("folder", views[label].folder), ("found", f"{len(names)}: {listed(names, 3)}"))
            fix = "load it with peft, and save the result of merge_and_unload()"
            problems.append(Problem(CheckpointError, "the weights have LoRA layers in them", fields, fix))
    return problems


def _renamed(of_first: Tensors, tensors: Tensors, view: View) -> tuple[Tensors, list[str]]:
    """A model's tensors under the first model's names, if they differ only in how they begin."""
    new = renamed_like(of_first.keys(), tensors.keys())
    if not new:
        return tensors, []
    theirs, ours = beginnings(new)
    if theirs.endswith(ours):
        change = f"with {theirs.removesuffix(ours)!r} before"
    elif ours.endswith(theirs):
        change = f"without {ours.removesuffix(theirs)!r} before"
    else:
        change = f"with {theirs!r} for {ours!r} in"
    remark = f"{view.source} names {len(new)} tensors {change} the names of the first; matched"
    return {new.get(name, name): source for name, source in tensors.items()}, [remark]


def _without_old_buffers(views: Mapping[str, View], by_label: Mapping[str, Tensors]) -> list[str]:
    """Leaves out buffers that only some models store: today's releases compute them on loading."""
    remarks = []
    everywhere = set.intersection(*(set(tensors) for tensors in by_label.values()))
    for label, tensors in by_label.items():
        lonely = tensors.keys() - everywhere if len(tensors) > len(everywhere) else ()
        old = sorted(name for name in lonely if is_old_buffer(name, tensors[name].shape))
        for name in old:
            del tensors[name]
        if old:
            remark = (
                f"{views[label].source}: left out, because not all models store them and they are computed"
            )
            remarks.append(f"{remark} when a model is loaded: {listed(old, 3)}")
    return remarks
