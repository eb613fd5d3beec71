"""Which tensor of b belongs to which tensor of a: by name, and where the names may differ.

Three differences are understood. A prefix that transformers itself accepts with and without
(`model.`, `transformer.`). A head that one parent stores and the other ties to its embedding: the
tied parent's head is its embedding, and the child has a head of its own. A tensor that only one
parent has, if `missing: copy` allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, MismatchError, Problem, listed, nearest, printable
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.stored_bytes import equal_bytes

PREFIXES = ("model.", "transformer.", "base_model.model.")
"""Beginnings of names that transformers adds or leaves out, depending on the class that saved."""

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
"""What the module of the input embedding is called, in one architecture or another."""

HEADS = ("lm_head", "embed_out", "output")
"""What the module of the output head is called; at the top of the model."""

TIED = "tie_word_embeddings"


@dataclass(frozen=True, slots=True)
class TensorPair:
    """One tensor of the child and where it comes from.

    Attributes:
        name: Its name in the child.
        a: The tensor in parent a; None where a has none, and b's is copied.
        b: The tensor in parent b; None where b has none, and a's is copied.
    """

    name: str
    a: TensorEntry | None
    b: TensorEntry | None

    @property
    def follows_vocabulary(self) -> bool:
        """Whether each of its rows belongs to a token: an embedding, a head, or a head's bias."""
        module, kind = ("", *self.name.split("."))[-2:]
        is_head = self.name in (f"{head}.{kind}" for head in HEADS) and kind in ("weight", "bias")
        return is_head or (module in EMBEDDINGS and kind == "weight")


@dataclass(frozen=True, slots=True)
class Pairing:
    """All tensors of the child.

    Attributes:
        pairs: In the order of parent a's files; what only b has comes last.
        tied: Whether the child's head is its embedding; None where neither parent says so.
        remarks: What was matched in spite of a difference, one line each.
        problems: Tensors that belong to nothing.
    """

    pairs: tuple[TensorPair, ...]
    tied: bool | None
    remarks: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def pair_tensors(a: Checkpoint, b: Checkpoint, missing: str = "error") -> Pairing:
    """Pairs the tensors of two checkpoints.

    Args:
        a: Parent a; its names are the child's.
        b: Parent b.
        missing: `"copy"` takes a tensor that one parent lacks from the other.
    """
    of_a, remarks_a = _without_tied_head(a)
    of_b, remarks_b = _without_tied_head(b)
    of_b, remarks = _with_prefixes_of(of_a, of_b, b)
    remarks = [*remarks_a, *remarks_b, *remarks, *_lend_heads((a, of_a), (b, of_b))]
    only_a = [name for name in of_a if name not in of_b]
    only_b = [name for name in of_b if name not in of_a]
    problems = []
    if missing == "copy":
        lone = ((a, only_a), (b, only_b))
        remarks += [f"only in {own.source}, copied: {listed(names, 3)}" for own, names in lone if names]
    elif only_a or only_b:
        problems = [_names_differ(a, b, only_a, only_b)]
    names = list(dict.fromkeys([*of_a, *of_b]))
    pairs = tuple(TensorPair(name, of_a.get(name), of_b.get(name)) for name in names)
    return Pairing(pairs, _tied(a, b, names), tuple(remarks), tuple(problems))


def _lend_heads(*parents: tuple[Checkpoint, dict[str, TensorEntry]]) -> list[str]:
    """Gives a tied parent its embedding as its head, where the other parent has a head of its own."""
    remarks = []
    for (parent, mine), (_, other) in (parents, parents[::-1]):
        head, embedding = _head(other), _embedding(mine)
        if head and embedding and not _head(mine) and tied_flag(parent.config) is not False:
            mine[head] = mine[embedding]
            tied = f"ties {head} to {printable(embedding, SHOWN_NAME)}"
            remarks.append(f"{parent.source} {tied}, the other does not; the child does not")
    return remarks


def _tied(a: Checkpoint, b: Checkpoint, names: list[str]) -> bool | None:
    flags = [flag for flag in (tied_flag(a.config), tied_flag(b.config)) if flag is not None]
    if _head(dict.fromkeys(names)):
        return False if any(flags) or not _head(a.tensors) else None
    return True if any(flags) else None


def tied_flag(config: Mapping[str, Any]) -> bool | None:
    """What a config says of `tie_word_embeddings`, in its text part if it has one; None if nothing."""
    text = config.get("text_config")
    for part in (text if isinstance(text, Mapping) else {}, config):
        if isinstance(part.get(TIED), bool):
            return part[TIED]
    return None


def _without_tied_head(parent: Checkpoint) -> tuple[dict[str, TensorEntry], list[str]]:
    """The tensors; a stored head that is a copy of the embedding, as the config says, is left out."""
    tensors = dict(parent.tensors)
    head, embedding = _head(tensors), _embedding(tensors)
    if not (tied_flag(parent.config) and head and embedding):
        return tensors, []
    if equal_bytes(tensors[head], tensors[embedding]):
        del tensors[head]
        return tensors, []
    remark = f"{parent.source}: {TIED} is true, but {head} is not the embedding; both are merged as stored"
    return tensors, [remark]


def _head(tensors: Mapping[str, Any]) -> str | None:
    names = [f"{head}.weight" for head in HEADS if f"{head}.weight" in tensors]
    return names[0] if names else None


def _embedding(tensors: Mapping[str, Any]) -> str | None:
    found = [name for name in tensors if name.endswith(".weight") and name.split(".")[-2] in EMBEDDINGS]
    return found[0] if len(found) == 1 else None


def _with_prefixes_of(
    of_a: Mapping[str, TensorEntry], of_b: dict[str, TensorEntry], b: Checkpoint
) -> tuple[dict[str, TensorEntry], list[str]]:
    """b's tensors under a's names, where a prefix is the only difference."""
    lonely = {name for name in of_b if name not in of_a}
    free = {name for name in of_a if name not in of_b}
    for prefix in PREFIXES:
        for change, renamed in (
            (f"without {prefix!r} before", {name: prefix + name for name in lonely}),
            (f"with {prefix!r} before", {n: n.removeprefix(prefix) for n in lonely if n.startswith(prefix)}),
        ):
            fitting = {name: new for name, new in renamed.items() if new in free}
            if fitting and len(fitting) >= len(free) / 2:
                tensors = {fitting.get(name, name): entry for name, entry in of_b.items()}
                remark = f"{b.source} names {len(fitting)} tensors {change} the names of the first; matched"
                return tensors, [remark]
    return of_b, []


def _names_differ(a: Checkpoint, b: Checkpoint, only_a: list[str], only_b: list[str]) -> Problem:
    fields: list[tuple[str, object]] = []
    for label, parent, names, others in (("a", a, only_a, only_b), ("b", b, only_b, only_a)):
        if names:
            shown = [f"{name}{nearest(name, others[:1000])}" for name in names[:3]]
            fields.append((f"only in {label}", f"{len(names)}: {listed([*shown, *names[3:]], 3)}"))
            fields.append(("folder", parent.folder))
    fix = "merge two models of one architecture and depth, saved by the same library"
    if not (only_a and only_b):
        fix += "; missing: copy takes what one of them lacks from the other"
    return Problem(MismatchError, "the tensor names differ", tuple(fields), fix)
