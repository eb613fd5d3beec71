"""From the models to the merged model's tokenizer and the rows of its embedding and head.

Everything here works on token strings; no weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fusion_slerp.errors import CheckpointError, MismatchError, Problem, listed, quoted, setting
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.vocabulary import remarks
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer, with_template
from fusion_slerp.vocabulary.differences import Behaviour, behaviour, on_differences
from fusion_slerp.vocabulary.overrides import apply_token_sources
from fusion_slerp.vocabulary.remarks import Counts, enumerated
from fusion_slerp.vocabulary.renamed import on_renamed_tokens
from fusion_slerp.vocabulary.rows import MOST_MODELS, Owners, RowMap, align
from fusion_slerp.vocabulary.tokenizer_choice import choose_tokenizer
from fusion_slerp.vocabulary.tokens import Tokens, Vocabulary, read_all, vocabulary_file

MAX_ROWS = 1 << 22
"""Sixteen times the largest known vocabulary."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """The models' tokens, and the merged model's. Counts are the rows of the models' matrices, by label.

    Attributes:
        vocabularies: The models' vocabularies by label, model a first; one that cannot be read is taken to
            equal the first one that can.
        child: The merged model's vocabulary; empty if no tokenizer can be read.
        tokenizer: The merged model's tokenizer files.
        models: The checkpoints themselves, by label.
        settings: The options of the merge.
        is_certain: Whether the tokens of all models could be read.
        remarks: Warnings for the user, one line each.
    """

    vocabularies: Mapping[str, Vocabulary]
    child: Vocabulary
    tokenizer: ChildTokenizer
    models: Mapping[str, Checkpoint]
    settings: MergeSettings
    is_certain: bool
    remarks: tuple[str, ...] = ()

    @property
    def are_equal(self) -> bool:
        """Whether every model has the same tokens in the same rows."""
        first, *others = self.vocabularies.values()
        return all(other is first or other == first for other in others)

    @property
    def first(self) -> str:
        """The label of the model whose number of rows counts: that of the requested tokenizer, else a."""
        requested = self.tokenizer.giver if self.settings.tokenizer != "union" else None
        return requested or next(iter(self.vocabularies))

    def n_rows(self, counts: Counts, longest: Counts | None = None) -> int:
        """Rows that the merged model needs in a tensor: those of the first model, or more for new tokens.

        Args:
            counts: The tensor's rows in each model.
            longest: The most rows of any tensor of the vocabulary in each model: tokens between the two have
                no row here, and need none. None takes the counts.
        """
        if not self.child:
            return max(counts.values())
        needed = max(self.child.values(), default=-1) + 1
        if needed > counts.get(self.first, 0) and longest not in (None, counts):
            needed = (
                max((row for t, row in self.child.items() if self._has_row(t, counts, longest)), default=-1)
                + 1
            )
        return max(counts.get(self.first, 0), needed)

    def _has_row(self, token: str, counts: Counts, longest: Counts) -> bool:
        """Whether a token needs a row in a tensor that may have fewer rows than another one."""
        rows = {label: self.vocabularies[label].get(token) for label in counts}
        return not any(rows.values()) or any(
            row is not None and not counts[label] <= row < longest[label] for label, row in rows.items()
        )

    def padded(self, n_rows: int) -> int:
        """A number of rows, rounded up to a multiple of `pad_vocab_to_multiple_of`."""
        multiple = self.settings.pad_vocab_to_multiple_of or 1
        return -(-n_rows // multiple) * multiple

    def rows(self, counts: Counts, n_rows: int | None = None, makers: Owners | None = None) -> RowMap | None:
        """Returns the sources of the merged model's rows; None if all are merged in place.

        Args:
            counts: Rows of the models' matrices; 0 for one that a model lacks. The map has their labels.
            n_rows: Rows of the merged model's matrix; None takes those that it needs.
            makers: The labels of the models of which it is made; None for all. The map has the rows of the
                others as well.

        Raises:
            MismatchError: `tokens` refers to a missing row, `vocab_fill="error"` forbids a row, or there are
                too many models with different vocabularies.
        """
        n_rows = self.padded(self.n_rows(counts)) if n_rows is None else n_rows
        if self._is_in_place(counts, n_rows):
            return None
        self._refuse_many_rows(counts)
        self._refuse_far_rows(counts)
        vocabularies = {label: self.vocabularies[label] for label in counts}
        rows = align(self.child, vocabularies, counts, n_rows)
        sources = self.settings.token_sources
        models = {label: (each, counts.get(label, 0)) for label, each in self.vocabularies.items()}
        rows = apply_token_sources(rows, sources, self.child, models, self._names())
        if rows.is_in_place(counts):
            return None
        _refuse_many_models(counts)
        named = [self.child[token] for token in sources if token in self.child]
        if self.settings.vocab_fill == "error":
            self._refuse_lone_rows(rows, named, makers)
        return rows if self.settings.vocab_fill == "owner" else rows.only_shared(named, makers)

    def _names(self) -> dict[str, str]:
        """From the names that the user may give a model to its label; of several with one name, the first."""
        backward = [(model.source, label) for label, model in reversed(list(self.models.items()))]
        return {**dict(backward), **{label: label for _, label in backward}}

    def _is_in_place(self, counts: Counts, n_rows: int) -> bool:
        """Whether no row needs attention: the usual case."""
        are_equal = self.are_equal and next(iter(self.vocabularies.values())) == self.child
        return are_equal and not self.settings.tokens and set(counts.values()) == {n_rows}

    def _refuse_many_rows(self, counts: Counts) -> None:
        """A matrix without columns may claim any number of rows, and every row takes memory here."""
        if max(counts.values()) <= MAX_ROWS:
            return
        sizes = enumerated(list(counts.values()))
        fields = (("found", f"{sizes} rows"), ("needed", f"at most {MAX_ROWS}"))
        fix = "do not trust these models: no known vocabulary is that large"
        raise Problem(CheckpointError, "an embedding with too many rows", fields, fix).error()

    def _refuse_far_rows(self, counts: Counts) -> None:
        """No merged model needs more rows than all models and all tokens together."""
        limit = sum(counts.values()) + len(self.child)
        far = [f"{quoted(token)} {row}" for token, row in self.child.items() if row >= limit]
        if not far:
            return
        sizes = enumerated(list(counts.values()))
        fields = (
            ("file", vocabulary_file(self.tokenizer.folder)),
            ("tokens", listed(far, 3)),
            ("needed", f"ids below {limit}: the models have {sizes} rows"),
        )
        others = [label for label in self.vocabularies if label != self.tokenizer.giver]
        fix = f"use {setting('tokenizer', others[0])}, or correct the ids of these tokens in the file"
        headline = "the tokenizer's ids lie far beyond the models' rows"
        raise Problem(MismatchError, headline, fields, fix).error()

    def _refuse_lone_rows(self, rows: RowMap, named: list[int], makers: Owners | None) -> None:
        is_fine = rows.shared(makers)
        is_fine[named] = True
        if is_fine.all():
            return
        lone = [quoted(token) for token, row in self.child.items() if not is_fine[row]]
        fields = (("found", str(rows.counts)), ("tokens", listed(lone, 3) or "none: padding"))
        fix = f"use {setting('vocab_fill', 'owner')}, which copies these rows"
        raise Problem(MismatchError, "rows that only one model has", fields, fix).error()

    def numbers(self, rows: RowMap, counts: Counts) -> str:
        """Returns how the rows are made, in one line."""
        return remarks.on_rows(rows, counts, self.models)

    def describe(self, rows: RowMap, counts: Counts) -> list[str]:
        """Returns how the rows are made, in one line, and then warnings about them."""
        vocabularies = {label: self.vocabularies[label] for label in counts}
        return [
            self.numbers(rows, counts),
            *remarks.on_tokens_beyond(vocabularies, counts, self.models),
            *remarks.on_shared_rows(self.child),
            *remarks.on_few_in_common(rows, vocabularies),
        ]


def align_vocabularies(models: Mapping[str, Checkpoint], settings: MergeSettings) -> Alignment:
    """Compares the models' tokens and decides on the merged model's.

    Args:
        models: By label, model a first.
        settings: The options of the merge.

    Raises:
        FusionSlerpError: The requested tokenizer does not exist, or cannot be made.
    """
    tokens = read_all({label: model.folder for label, model in models.items()})
    known = {label: (model, tokens[label]) for label, model in models.items()}
    named = tuple(settings.token_sources)
    tokenizer, chosen = choose_tokenizer(known, settings.tokenizer, named, settings.follow_links)
    if settings.chat_template is not None:
        tokenizer = with_template(tokenizer, settings.chat_template)
    first = next((each for each in tokens.values() if each is not None), Tokens({}))
    vocabularies = {label: (first if each is None else each).rows for label, each in tokens.items()}
    of_a = next(iter(vocabularies.values()))
    child = tokenizer.rows if tokenizer.rows is not None else of_a
    if tokenizer.giver is None:
        child = _with_rows_between(child, of_a)
    warnings = (
        *remarks.on_tokenizers(models, tokens),
        *chosen,
        *on_differences(*_behaviours(models, tokens, tokenizer, settings), settings.chat_template is None),
        *remarks.on_moved_tokens(models, tokens),
        *on_renamed_tokens({label: model.source for label, model in models.items()}, tokens, child),
        *remarks.on_lost_tokens(models, vocabularies, child),
    )
    is_certain = None not in tokens.values()
    return Alignment(vocabularies, child, tokenizer, models, settings, is_certain, warnings)


def _behaviours(
    models: Mapping[str, Checkpoint],
    tokens: Mapping[str, Tokens | None],
    tokenizer: ChildTokenizer,
    settings: MergeSettings,
) -> tuple[Behaviour, list[Behaviour]]:
    """The tokenizer that the merged model has, and those of the models that do not give theirs."""
    giver = tokenizer.giver
    of_models = {label: behaviour(each.source, each.folder, tokens[label]) for label, each in models.items()}
    of_models |= {BASE: replace(of_models[BASE], is_of_base=True)} if BASE in of_models else {}
    if giver is not None:
        child = of_models.pop(giver)
    else:
        child = behaviour(settings.tokenizer, tokenizer.folder, tokenizer.own)
    return replace(child, templates=tokenizer.chat_templates), list(of_models.values())


def _with_rows_between(child: Vocabulary, of_a: Vocabulary) -> Vocabulary:
    """The tokens of a tokenizer that belongs to no model, and those of model a in its empty rows."""
    used = set(child.values())
    own = {token: row for token, row in of_a.items() if row not in used and token not in child}
    return {**own, **child} if own else child


def _refuse_many_models(counts: Counts) -> None:
    if len(counts) <= MOST_MODELS:
        return
    fields = (("found", f"{len(counts)} models"), ("needed", f"at most {MOST_MODELS}"))
    fix = "merge some of them first, and then the results"
    headline = "too many models with different vocabularies"
    raise Problem(MismatchError, headline, fields, fix).error()
