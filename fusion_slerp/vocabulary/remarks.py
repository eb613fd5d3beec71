"""Warnings about tokens and rows, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fusion_slerp.errors import listed, quoted
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.vocabulary.child_tokenizer import VOCABULARY_FILES
from fusion_slerp.vocabulary.renamed import missing
from fusion_slerp.vocabulary.rows import RowMap
from fusion_slerp.vocabulary.tokens import TOKENIZER_CONFIG, Tokens, Vocabulary, are_same

Models = Mapping[str, Checkpoint]
Vocabularies = Mapping[str, Vocabulary]
Counts = Mapping[str, int]
"""Rows of the models' matrices; each of the three is by label."""


def enumerated(parts: Sequence[object]) -> str:
    """Returns `"x"`, `"x and y"`, `"x, y and z"`."""
    words = [str(part) for part in parts]
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def counted(count: int, noun: str) -> str:
    """Returns `"1 token"`, `"2 tokens"`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def on_tokenizers(models: Models, tokens: Mapping[str, Tokens | None]) -> list[str]:
    """Returns a warning about tokenizers that cannot be read."""
    if all(each is not None for each in tokens.values()) or _have_equal_files(models):
        return []
    unread = [str(models[label].folder) for label, each in tokens.items() if each is None]
    known = next((models[label].source for label, each in tokens.items() if each is not None), None)
    alike = "in both" if len(models) == 2 else f"as in {known}" if known else "in all"
    return [
        f"the vocabularies could not be compared; no readable tokenizer in {' and in '.join(unread)}; "
        f"rows are assumed to have the same tokens {alike}"
    ]


def _have_equal_files(models: Models) -> bool:
    """Whether all folders have the same vocabulary files, byte for byte, or all have none."""
    first, *others = (model.folder for model in models.values())
    names = _vocabulary_files(first)
    return all(
        names == _vocabulary_files(other) and all(are_same(first / name, other / name) for name in names)
        for other in others
    )


def _vocabulary_files(folder: Path) -> set[str]:
    return {path.name for pattern in VOCABULARY_FILES for path in folder.glob(pattern)}


def on_moved_tokens(models: Models, tokens: Mapping[str, Tokens | None]) -> Iterator[str]:
    """Yields a warning for each model whose added tokens are loaded with rows unlike those in the file."""
    for label, each in tokens.items():
        if each and each.moved:
            named = [f"{quoted(t)} {row}, loaded as {each.rows.get(t)}" for t, row in each.moved.items()]
            n = counted(len(named), "added token")
            yield (
                f"{models[label].source}: the tokenizers library numbers {n} differently from the file, and "
                f"rows follow the library: {listed(named, 3)}"
            )
        if each and each.unlisted:
            n, named = counted(len(each.unlisted), "added token"), map(quoted, each.unlisted)
            yield (
                f"{models[label].source}: the list of added tokens in {TOKENIZER_CONFIG} lacks {n} of "
                f"tokenizer.json, so transformers 5 ignores {listed([*named], 3)}"
            )


def on_lost_tokens(models: Models, vocabularies: Vocabularies, child: Vocabulary) -> Iterator[str]:
    """Yields a warning for each model with tokens that the merged model lacks, but not for the base."""
    for label, vocabulary in vocabularies.items():
        same = vocabulary is child or label == BASE
        lost = [] if same else [quoted(token) for token in missing(child, vocabulary)]
        if lost:
            source = models[label].source
            yield f"the merged model lacks {counted(len(lost), 'token')} of {source}: {listed(lost, 3)}"


def on_rows(rows: RowMap, counts: Counts, models: Models) -> str:
    """Returns how many rows are made in which way."""
    n = rows.counts
    copied = [f"{count} copied from {models[label].source}" for label, count in n.copied.items()]
    lost = {label: count - _n_different(rows.of[label], count) for label, count in counts.items()}
    parts = (
        f"{n.merged} merged",
        *copied,
        *([f"{n.filled} filled"] if n.filled else []),
        *(f"{count} of {models[label].source} left out" for label, count in lost.items() if count),
    )
    sizes = enumerated(list(counts.values()))
    return f"vocabularies of {sizes} rows, {len(rows)} in the merged model: {', '.join(parts)}"


def _n_different(rows: np.ndarray, n_rows: int) -> int:
    """How many different rows of a model are used."""
    occurs = np.zeros(n_rows, bool)
    occurs[rows[rows >= 0]] = True
    return int(occurs.sum())


def on_tokens_beyond(vocabularies: Vocabularies, counts: Counts, models: Models) -> Iterator[str]:
    """Yields a warning for each model with tokens that have no row in its matrix."""
    for label, count in counts.items():
        vocabulary = vocabularies[label]
        beyond = 0 if Tokens(vocabulary).n_rows <= count else sum(r >= count for r in vocabulary.values())
        if beyond:
            yield f"{models[label].source}: {counted(beyond, 'token')} with an id beyond its {count} rows"


def on_shared_rows(child: Vocabulary) -> list[str]:
    """Returns a warning about tokens of the merged model that share a row."""
    last = {row: token for token, row in child.items()}
    named = [
        f"{quoted(token)} and {quoted(last[row])} {row}" for token, row in child.items() if last[row] != token
    ]
    return [f"tokens of the merged model share a row: {listed(named, 3)}"] if named else []


def on_few_in_common(rows: RowMap, vocabularies: Vocabularies) -> list[str]:
    """Returns a warning about models that have less than half of the smallest vocabulary in common.

    Args:
        rows: The sources of the merged model's rows.
        vocabularies: Of the models that have such rows.
    """
    n_least = min(len(vocabulary) for vocabulary in vocabularies.values())
    n_shared = int((rows.n_owners == len(vocabularies)).sum())
    if 2 * n_shared < n_least:
        first, *others = vocabularies.values()
        n_shared = len(set(first).intersection(*others))
    if 2 * n_shared >= n_least:
        return []
    return [f"the models share only {n_shared} of {n_least} tokens; are they from one family?"]
