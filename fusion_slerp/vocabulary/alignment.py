"""From two parents to the child's tokenizer and the rows of its embedding and head.

Everything here works on token strings; no weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusion_slerp.errors import CheckpointError, MismatchError, Problem, listed, quoted
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.json_files import TOKENIZER as LARGE
from fusion_slerp.sources.regular_files import equal_files
from fusion_slerp.vocabulary.child_tokenizer import (
    VOCABULARY_FILES,
    ChildTokenizer,
    choose_tokenizer,
    with_template,
)
from fusion_slerp.vocabulary.overrides import apply_token_sources
from fusion_slerp.vocabulary.rows import RowMap, align
from fusion_slerp.vocabulary.tokens import (
    TOKENIZER,
    Tokens,
    Vocabulary,
    added_beside,
    read_tokens,
    vocabulary_file,
)

MAX_ROWS = 1 << 22
"""Sixteen times the largest vocabulary that is known."""

Counts = tuple[int, int]
"""Rows of parent a's and parent b's matrix."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """What the tokens of both parents come to.

    Attributes:
        a: Parent a's vocabulary; where it cannot be read, what it is taken for.
        b: Parent b's.
        child: The child's; empty where no tokenizer can be read.
        tokenizer: The child's tokenizer files.
        sources: The checkpoints themselves.
        settings: The options of the merge.
        is_certain: Whether both parents' tokens could be read.
        remarks: What the user should know, one line each.
    """

    a: Vocabulary
    b: Vocabulary
    child: Vocabulary
    tokenizer: ChildTokenizer
    sources: tuple[Checkpoint, Checkpoint]
    settings: MergeSettings
    is_certain: bool
    remarks: tuple[str, ...] = ()

    def n_rows(self, counts: Counts) -> int:
        """Rows of the child: as many as the first parent's, or as the tokens need, or as padding asks."""
        is_b_asked = self.tokenizer.giver == "b" and self.settings.tokenizer != "union"
        first = counts[1] if is_b_asked else counts[0]
        needed = max(self.child.values(), default=-1) + 1
        least = max(first, needed) if self.child else max(counts)
        multiple = self.settings.pad_vocab_to_multiple_of or 1
        return -(-least // multiple) * multiple

    def rows(self, counts: Counts) -> RowMap | None:
        """Returns where the child's rows come from; None where all are merged in place.

        Args:
            counts: Rows of the parents' matrices; 0 for one that a parent lacks.

        Raises:
            MismatchError: `tokens` names a row that is not there, or `vocab_fill: error` forbids it.
        """
        settings = self.settings
        if self._is_in_place(counts):
            return None
        self._refuse_many_rows(counts)
        self._refuse_far_rows(counts)
        rows = align(self.child, self.a, self.b, counts, self.n_rows(counts))
        parents = {"a": (self.a, counts[0]), "b": (self.b, counts[1])}
        a, b = (parent.source for parent in self.sources)
        names = {b: "b", a: "a", "b": "b", "a": "a"}
        rows = apply_token_sources(rows, settings.token_sources, self.child, parents, names)
        if rows.is_in_place(counts):
            return None
        named = [self.child[token] for token in settings.token_sources if token in self.child]
        if settings.vocab_fill == "error":
            self._refuse_lone_rows(rows, named)
        if settings.vocab_fill != "owner":
            rows = rows.only_shared(named)
        return rows

    def _is_in_place(self, counts: Counts) -> bool:
        """Whether nothing has to be looked at: the usual case."""
        one_map = self.a == self.b == self.child
        return one_map and not self.settings.token_sources and set(counts) == {self.n_rows(counts)}

    def _refuse_many_rows(self, counts: Counts) -> None:
        """A matrix without columns may claim any number of rows, and every row takes memory here."""
        if max(counts) <= MAX_ROWS:
            return
        fields = (("found", f"{counts[0]} and {counts[1]} rows"), ("needed", f"at most {MAX_ROWS}"))
        fix = "do not trust these models: no vocabulary is so large"
        raise Problem(CheckpointError, "an embedding with too many rows", fields, fix).error()

    def _refuse_far_rows(self, counts: Counts) -> None:
        """A row for each of both models' rows and for each token is more than any child needs."""
        limit = sum(counts) + len(self.child)
        far = [f"{quoted(token)} {row}" for token, row in self.child.items() if row >= limit]
        if not far:
            return
        fields = (
            ("file", vocabulary_file(self.tokenizer.folder)),
            ("tokens", listed(far, 3)),
            ("needed", f"ids below {limit}: the models have {counts[0]} and {counts[1]} rows"),
        )
        fix = "correct the ids of these tokens, or name another tokenizer: a, b, or a folder"
        headline = "the tokenizer's ids lie far beyond the models' rows"
        raise Problem(MismatchError, headline, fields, fix).error()

    def _refuse_lone_rows(self, rows: RowMap, named: list[int]) -> None:
        fine = rows.merged
        fine[named] = True
        if fine.all():
            return
        lone = [quoted(token) for token, row in self.child.items() if not fine[row]]
        fields = (("found", str(rows.counts)), ("tokens", listed(lone, 3) or "none: padding"))
        fix = "set vocab_fill: owner, which copies what one model has"
        raise Problem(MismatchError, "rows that not both models have", fields, fix).error()

    def describe(self, rows: RowMap, counts: Counts) -> list[str]:
        """Returns what happens to the rows in one line, and what is odd about them."""
        n = rows.counts
        a, b = (parent.source for parent in self.sources)
        parts = (
            f"{n.merged} merged",
            f"{n.from_a} copied from {a}" if n.from_a else "",
            f"{n.from_b} copied from {b}" if n.from_b else "",
            f"{n.filled} filled" if n.filled else "",
            *(
                f"{lost} of {name} left out"
                for name, used, count in ((a, rows.a, counts[0]), (b, rows.b, counts[1]))
                if (lost := count - _n_different(used, count))
            ),
        )
        told = ", ".join(part for part in parts if part)
        remarks = [f"vocabularies of {counts[0]} and {counts[1]} rows, {len(rows)} in the child: {told}"]
        for source, vocabulary, count in ((a, self.a, counts[0]), (b, self.b, counts[1])):
            beyond = 0 if Tokens(vocabulary).n_rows <= count else sum(r >= count for r in vocabulary.values())
            if beyond:
                remarks.append(f"{source}: {beyond} tokens lie beyond its {count} rows")
        remarks += _on_one_row(self.child)
        n_least = min(len(self.a), len(self.b))
        n_shared = n.merged if 2 * n.merged >= n_least else len(self.a.keys() & self.b.keys())
        if 2 * n_shared < n_least:
            remarks.append(f"the models share only {n_shared} of {n_least} tokens; are they of one family?")
        return remarks


def align_vocabularies(a: Checkpoint, b: Checkpoint, settings: MergeSettings) -> Alignment:
    """Compares the parents' tokens and decides on the child's.

    Raises:
        FusionSlerpError: The tokenizer asked for does not exist, or cannot be made.
    """
    tokens_a, tokens_b = _read_both(a.folder, b.folder)
    named = tuple(settings.token_sources)
    tokenizer, remarks = choose_tokenizer(
        (a, tokens_a), (b, tokens_b), settings.tokenizer, named, settings.follow_links
    )
    if settings.chat_template is not None:
        tokenizer = with_template(tokenizer, settings.chat_template)
    if tokens_a is None or tokens_b is None:
        remarks = [*_not_compared(a, b, tokens_a, tokens_b), *remarks]
    remarks += _moved((a, tokens_a), (b, tokens_b))
    of_a = tokens_a or tokens_b or Tokens({})
    of_b = tokens_b or of_a
    child = tokenizer.rows if tokenizer.rows is not None else of_a.rows
    if tokenizer.giver is None:
        child = _with_rows_between(child, of_a.rows)
    remarks += _left_out(child, (a, of_a.rows), (b, of_b.rows))
    is_certain = tokens_a is not None and tokens_b is not None
    return Alignment(of_a.rows, of_b.rows, child, tokenizer, (a, b), settings, is_certain, tuple(remarks))


def _read_both(a: Path, b: Path) -> tuple[Tokens | None, Tokens | None]:
    """The tokens of both; one reading serves where the files are the same."""
    of_a = read_tokens(a)
    if _are_same(a / TOKENIZER, b / TOKENIZER) and added_beside(a) == added_beside(b):
        return of_a, of_a
    return of_a, read_tokens(b)


def _are_same(one: Path, other: Path) -> bool:
    try:
        return equal_files(one, other, LARGE.nbytes)
    except OSError:
        return False


def _with_rows_between(child: Vocabulary, of_a: Vocabulary) -> Vocabulary:
    """A third tokenizer's tokens, and those of parent a in rows that it has no token for."""
    used = set(child.values())
    own = {token: row for token, row in of_a.items() if row not in used and token not in child}
    return {**own, **child} if own else child


def _n_different(rows: np.ndarray, n_rows: int) -> int:
    """How many of a parent's rows occur."""
    occurs = np.zeros(n_rows, bool)
    occurs[rows[rows >= 0]] = True
    return int(occurs.sum())


def _left_out(child: Vocabulary, *parents: tuple[Checkpoint, Vocabulary]) -> list[str]:
    remarks = []
    for parent, vocabulary in parents:
        same = vocabulary is child
        lost = [] if same else [quoted(token) for token in vocabulary if token not in child]
        if lost:
            remarks.append(f"the child has not {len(lost)} tokens of {parent.source}: {listed(lost, 3)}")
    return remarks


def _on_one_row(child: Vocabulary) -> list[str]:
    last = {row: token for token, row in child.items()}
    named = [
        f"{quoted(token)} and {quoted(last[row])} {row}" for token, row in child.items() if last[row] != token
    ]
    return [f"tokens of the child share a row: {listed(named, 3)}"] if named else []


def _moved(*parents: tuple[Checkpoint, Tokens | None]) -> list[str]:
    remarks = []
    for parent, tokens in parents:
        if tokens and tokens.moved:
            named = [f"{quoted(t)} {row}, loaded as {tokens.rows.get(t)}" for t, row in tokens.moved.items()]
            remarks.append(
                f"{parent.source}: the tokenizers library numbers {len(named)} added tokens otherwise than "
                f"their file, and rows follow the library: {listed(named, 3)}"
            )
    return remarks


def _not_compared(a: Checkpoint, b: Checkpoint, of_a: Tokens | None, of_b: Tokens | None) -> list[str]:
    """A remark, unless the files are the same bytes in both folders, or there are none."""
    names_a, names_b = (
        {path.name for pattern in VOCABULARY_FILES for path in parent.folder.glob(pattern)}
        for parent in (a, b)
    )
    if names_a == names_b and all(_are_same(a.folder / name, b.folder / name) for name in names_a):
        return []
    unread = [str(p.folder) for p, tokens in ((a, of_a), (b, of_b)) if tokens is None]
    return [
        f"the vocabularies could not be compared; no readable tokenizer in {' and in '.join(unread)}; "
        "rows are taken to stand for the same tokens in both"
    ]
