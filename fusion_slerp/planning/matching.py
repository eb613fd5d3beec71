"""Which tensors of the models belong together: by name, and where the names may differ.

Three differences are understood. A prefix that transformers itself accepts with and without
(`model.`, `transformer.`). A head that one model stores and another ties to its embedding: the
tied model's head is its embedding, and the merged model has a head of its own. A tensor that not all
models have, if `missing: copy` allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fusion_slerp.errors import MismatchError, Problem, listed, nearest, printable
from fusion_slerp.planning.view import View
from fusion_slerp.sources.source import Source
from fusion_slerp.sources.stored_bytes import equal_bytes
from fusion_slerp.tensor_names import PREFIXES, embedding_of, follows_vocabulary, head_of

TIED = "tie_word_embeddings"

Tensors = dict[str, Source]


class Match(NamedTuple):
    """One tensor of the merged model and where it comes from.

    Attributes:
        name: Its name in the merged model.
        of: The tensor in each model that has it, by label.
    """

    name: str
    of: Mapping[str, Source]

    @property
    def first(self) -> Source:
        """That of the first model that has it: the merged model inherits its type."""
        return next(iter(self.of.values()))

    @property
    def follows_vocabulary(self) -> bool:
        """Whether each of its rows belongs to a token."""
        return follows_vocabulary(self.name)


@dataclass(frozen=True, slots=True)
class Matching:
    """All tensors of the merged model.

    Attributes:
        matches: In the order of model a's files; what only others have comes last.
        tied: Whether the merged model's head is its embedding; None where no model says so.
        remarks: What was matched in spite of a difference, one line each.
        problems: Tensors that belong to nothing.
    """

    matches: tuple[Match, ...]
    tied: bool | None
    remarks: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def match_tensors(views: Mapping[str, View], missing: str = "error") -> Matching:
    """Matches the tensors of the models.

    Args:
        views: The models by label; the names of the first are the merged model's.
        missing: `"copy"` allows tensors that not all models have.
    """
    found: dict[str, Tensors] = {}
    remarks: list[str] = []
    for label, view in views.items():
        found[label], more = _without_tied_head(view)
        remarks += more
    first, *others = found
    for label in others:
        found[label], more = _with_prefixes_of(found[first], found[label], views[label])
        remarks += more
    remarks += _lend_heads(views, found)
    names = dict.fromkeys(name for tensors in found.values() for name in tensors)
    problems = []
    if missing == "copy":
        remarks += _copied(views, found)
    elif any(len(tensors) < len(names) for tensors in found.values()):
        problems = [_names_differ(views, found)]
    matches = tuple(
        Match(name, {label: tensors[name] for label, tensors in found.items() if name in tensors})
        for name in names
    )
    return Matching(matches, _tied(views, names), tuple(remarks), tuple(problems))


def _copied(views: Mapping[str, View], found: Mapping[str, Tensors]) -> list[str]:
    """A remark for each set of owners of tensors that not all models have."""
    return [
        f"only in {' and '.join(views[label].source for label in owners)}, "
        f"{'copied' if len(owners) == 1 else 'merged'}: {listed(names, 3)}"
        for owners, names in _by_owners(found).items()
    ]


def _lend_heads(views: Mapping[str, View], found: Mapping[str, Tensors]) -> list[str]:
    """Gives a tied model its embedding as its head, where another model has a head of its own."""
    remarks = []
    head = next((head for tensors in found.values() if (head := head_of(tensors))), None)
    for label, tensors in found.items():
        view, embedding = views[label], embedding_of(tensors)
        if head and embedding and not head_of(tensors) and tied_flag(view.config) is not False:
            tensors[head] = tensors[embedding]
            tied = f"ties {head} to {printable(embedding, 200)}"
            other = "the other does not" if len(found) == 2 else "not all others do"
            remarks.append(f"{view.source} {tied}, {other}; the child does not")
    return remarks


def _tied(views: Mapping[str, View], names: Mapping[str, None]) -> bool | None:
    flags = [flag for view in views.values() if (flag := tied_flag(view.config)) is not None]
    if head_of(names):
        first = next(iter(views.values()))
        return False if any(flags) or not head_of(first.tensors) else None
    return True if any(flags) else None


def tied_flag(config: Mapping[str, Any]) -> bool | None:
    """What a config says of `tie_word_embeddings`, in its text part if it has one; None if nothing."""
    text = config.get("text_config")
    for part in (text if isinstance(text, Mapping) else {}, config):
        if isinstance(part.get(TIED), bool):
            return part[TIED]
    return None


def _without_tied_head(view: View) -> tuple[Tensors, list[str]]:
    """The tensors; a stored head that is a copy of the embedding, as the config says, is left out."""
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
    """A model's tensors under the first's names, where a prefix is the only difference."""
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


def _names_differ(views: Mapping[str, View], found: Mapping[str, Tensors]) -> Problem:
    """Names what not all models have, by those that have it."""
    only = _by_owners(found)
    fields: list[tuple[str, object]] = []
    for owners, names in only.items():
        near = [name for others, more in only.items() if others != owners for name in more][:1000]
        shown = [f"{name}{nearest(name, near)}" for name in names[:3]]
        fields.append((f"only in {', '.join(owners)}", f"{len(names)}: {listed([*shown, *names[3:]], 3)}"))
        fields.append(("folder", ", ".join(str(views[label].folder) for label in owners)))
    fix = "merge two models of one architecture and depth, saved by the same library"
    if len(only) == 1:
        fix += "; missing: copy takes what one of them lacks from the other"
    return Problem(MismatchError, "the tensor names differ", tuple(fields), fix)


def _by_owners(found: Mapping[str, Tensors]) -> dict[tuple[str, ...], list[str]]:
    """The names that not all models have, by the labels of those that have them."""
    by_owners: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(name for tensors in found.values() for name in tensors):
        owners = tuple(label for label, tensors in found.items() if name in tensors)
        if len(owners) < len(found):
            by_owners.setdefault(owners, []).append(name)
    return by_owners
