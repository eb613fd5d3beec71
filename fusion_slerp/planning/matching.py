"""Matches the tensors of the models by name.

Names may differ in three ways: a prefix that transformers accepts with and without (`model.`,
`transformer.`); a head that one model stores and another ties to its embedding, which then serves as its
head, while the merged model stores one; and a tensor that some models lack, with `missing: copy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fusion_slerp.errors import MismatchError, Problem, listed, nearest, printable, setting
from fusion_slerp.planning.view import View
from fusion_slerp.sources.source import Source
from fusion_slerp.sources.stored_bytes import equal_bytes
from fusion_slerp.tensor_names import PREFIXES, embedding_of, follows_vocabulary, head_of

TIED = "tie_word_embeddings"

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

    @property
    def follows_vocabulary(self) -> bool:
        """Whether each of its rows belongs to a token."""
        return follows_vocabulary(self.name)


@dataclass(frozen=True, slots=True)
class Matching:
    """All tensors of the merged model.

    Attributes:
        matches: In the order of model a's files; tensors that model a lacks come last.
        tied: Whether the merged model's head is its embedding; None if no config states it.
        remarks: Differences that were resolved, one line each.
        problems: Tensors without a counterpart.
    """

    matches: tuple[Match, ...]
    tied: bool | None
    remarks: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def match_tensors(views: Mapping[str, View], missing: str = "error", configs_fit: bool = True) -> Matching:
    """Matches the tensors of the models.

    Args:
        views: The models by label; the names of the first are the merged model's.
        missing: `"copy"` allows tensors that some models lack.
        configs_fit: Whether the configs allow a merge, so that copying may be advised.
    """
    by_label: dict[str, Tensors] = {}
    remarks: list[str] = []
    for label, view in views.items():
        by_label[label], more = _without_tied_head(view)
        remarks += more
    first, *others = by_label
    for label in others:
        by_label[label], more = _with_prefixes_of(by_label[first], by_label[label], views[label])
        remarks += more
    remarks += _share_embeddings(views, by_label)
    names = dict.fromkeys(name for tensors in by_label.values() for name in tensors)
    problems = []
    if missing == "copy":
        remarks += _copied(views, by_label)
    elif any(len(tensors) < len(names) for tensors in by_label.values()):
        problems = [_names_differ(views, by_label, configs_fit)]
    matches = tuple(
        Match(name, {label: tensors[name] for label, tensors in by_label.items() if name in tensors})
        for name in names
    )
    return Matching(matches, _tied(views, names), tuple(remarks), tuple(problems))


def _copied(views: Mapping[str, View], by_label: Mapping[str, Tensors]) -> list[str]:
    """A remark for each set of models that have tensors which others lack."""
    return [
        f"only in {' and '.join(views[label].source for label in owners)}, "
        f"{'copied' if len(owners) == 1 else 'merged'}: {listed(names, 3)}"
        for owners, names in _by_owners(by_label).items()
    ]


def _share_embeddings(views: Mapping[str, View], by_label: Mapping[str, Tensors]) -> list[str]:
    """Uses a tied model's embedding as its head, if another model stores a head."""
    remarks = []
    head = next((head for tensors in by_label.values() if (head := head_of(tensors))), None)
    for label, tensors in by_label.items():
        view, embedding = views[label], embedding_of(tensors)
        if head and embedding and not head_of(tensors) and tied_flag(view.config) is not False:
            tensors[head] = tensors[embedding]
            tied = f"ties {head} to {printable(embedding, 200)}"
            other = "the other model does not" if len(by_label) == 2 else "not all others do"
            remarks.append(f"{view.source} {tied}, {other}; the merged model stores both")
    return remarks


def _tied(views: Mapping[str, View], names: Mapping[str, None]) -> bool | None:
    flags = [flag for view in views.values() if (flag := tied_flag(view.config)) is not None]
    if head_of(names):
        first = next(iter(views.values()))
        return False if any(flags) or not head_of(first.tensors) else None
    return True if any(flags) else None


def tied_flag(config: Mapping[str, Any]) -> bool | None:
    """Returns `tie_word_embeddings` of a config, from its text part if it has one; None if it is not set."""
    of_text = config.get("text_config")
    for part in (of_text if isinstance(of_text, Mapping) else {}, config):
        if isinstance(part.get(TIED), bool):
            return part[TIED]
    return None


def _without_tied_head(view: View) -> tuple[Tensors, list[str]]:
    """The tensors without a head that is a copy of the embedding, if the config ties them."""
    tensors = dict(view.tensors)
    head, embedding = head_of(tensors), embedding_of(tensors)
    if not (tied_flag(view.config) and head and embedding):
        return tensors, []
    (one,), (other,) = tensors[head].entries, tensors[embedding].entries
    if equal_bytes(one, other):
        del tensors[head]
        return tensors, []
    remark = f"{view.source}: {TIED} is true, but {head} is not the embedding; both are merged as stored"
    return tensors, [remark]


def _with_prefixes_of(of_first: Tensors, tensors: Tensors, view: View) -> tuple[Tensors, list[str]]:
    """A model's tensors under the first model's names, if they differ only in a prefix."""
    lonely = {name for name in tensors if name not in of_first}
    free = {name for name in of_first if name not in tensors}
    for prefix in PREFIXES:
        for change, renamed in (
            (f"without {prefix!r} before", {name: prefix + name for name in lonely}),
            (f"with {prefix!r} before", {n: n.removeprefix(prefix) for n in lonely if n.startswith(prefix)}),
        ):
            fitting = {name: new for name, new in renamed.items() if new in free}
            if fitting and len(fitting) >= len(free) / 2:
                remark = (
                    f"{view.source} names {len(fitting)} tensors {change} the names of the first; matched"
                )
                return {fitting.get(name, name): entry for name, entry in tensors.items()}, [remark]
    return tensors, []


def _names_differ(views: Mapping[str, View], by_label: Mapping[str, Tensors], configs_fit: bool) -> Problem:
    """Lists the tensors that some models lack, by the models that have them."""
    only = _by_owners(by_label)
    fields: list[tuple[str, object]] = []
    for owners, names in only.items():
        near = [name for others, more in only.items() if others != owners for name in more][:1000]
        shown = [f"{name}{nearest(name, near)}" for name in names[:3]]
        fields.append((f"only in {', '.join(owners)}", f"{len(names)}: {listed([*shown, *names[3:]], 3)}"))
        fields.append(("folder", ", ".join(str(views[label].folder) for label in owners)))
    fix = "merge models of one architecture and depth, saved by the same library"
    if len(only) == 1 and configs_fit:
        fix += f", or use {setting('missing', 'copy')} to copy tensors from the only model that has them"
    return Problem(MismatchError, "the tensor names differ", tuple(fields), fix)


def _by_owners(by_label: Mapping[str, Tensors]) -> dict[tuple[str, ...], list[str]]:
    """The names that some models lack, by the labels of those that have them."""
    by_owners: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(name for tensors in by_label.values() for name in tensors):
        owners = tuple(label for label, tensors in by_label.items() if name in tensors)
        if len(owners) < len(by_label):
            by_owners.setdefault(owners, []).append(name)
    return by_owners
