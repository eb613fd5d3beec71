"""The tensors that have a row for each token.

A tensor follows the tokens if its name says so and its rows fit, if its rows differ between the models as
their vocabularies do, or if the setting `vocabulary_tensors` says so. Where rows are rearranged, any other
tensor with as many rows as a vocabulary is refused: it may hold rows of tokens under an unknown name.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fusion_slerp.errors import MismatchError, Problem, SettingsError, listed, nearest, setting
from fusion_slerp.planning.config_paths import text_part
from fusion_slerp.planning.matching import Match
from fusion_slerp.planning.view import View
from fusion_slerp.sources.source import Source
from fusion_slerp.tensor_names.vocabulary import ends_among, is_in_layer, is_part_of_embedding, roles

Counts = Mapping[str, int]
"""Rows of a tensor in each model, by label; 0 in a model that lacks it."""

FOLLOW, STAY = "follow", "stay"
"""Values of the setting `vocabulary_tensors`."""

MOST_EXTRA_ROWS = 1024
"""Rows by which tensors of one vocabulary differ at most: Mllama's embedding has 8 more than its head, that
of Gemma 3n 256 more than the one per layer. More means another vocabulary, such as that of sounds.
"""


@dataclass(frozen=True, slots=True)
class VocabularyTensors:
    """The tensors whose rows belong to tokens.

    Attributes:
        counts: Their rows in each model, by name; where a model lacks one, those of its embedding.
        usual: The rows of the embedding or head in each model; None if there is none with a known name.
        per_layer: The names of those with a vocabulary size of their own.
        staying: Names that the user wants to stay in place.
        unclear: Names of further embeddings or heads with fewer rows than the vocabulary: they may follow or
            stay.
        has_embedding: Whether the input embedding is among them; a head may be all that is known.
        notes: Decisions that no name explains, one line each.
    """

    counts: Mapping[str, Counts]
    usual: Counts | None
    per_layer: frozenset[str] = frozenset()
    staying: frozenset[str] = frozenset()
    unclear: frozenset[str] = frozenset()
    has_embedding: bool = False
    notes: tuple[str, ...] = ()


def vocabulary_tensors(
    views: Mapping[str, View], matches: Sequence[Match], wanted: Mapping[str, str]
) -> VocabularyTensors:
    """Returns the tensors whose rows belong to tokens.

    Args:
        views: The models by label.
        matches: Their tensors.
        wanted: The setting: `"follow"` or `"stay"` by name, or by pattern with `*`.

    Raises:
        SettingsError: A pattern of the setting matches no tensor.
    """
    by_name = {match.name: match for match in matches}
    chosen = _chosen(wanted, by_name)
    known = roles(by_name)
    named = {name: role for name, role in known.items() if chosen.get(name) != STAY}
    counts = {n: _counts(by_name[n], views) for n in named}
    usual = _usual(views, counts, named)
    if usual is None:
        follow = {n: _counts(by_name[n], views) for n, value in chosen.items() if value == FOLLOW}
        usual = next((each for each in follow.values() if all(each.values())), None)
        if usual is None:
            return VocabularyTensors({}, None)
    certain = {
        *ends_among(known),
        *(name for name, role in named.items() if role == "per layer" or chosen.get(name) == FOLLOW),
    }
    fitting, unclear, notes = _judged(counts, usual, certain)
    more = _unnamed(by_name, views, usual, fitting, chosen)
    notes += [f"{name}: its rows follow the tokens" for name in more]
    full = {
        name: {label: n or usual[label] for label, n in each.items()}
        for name, each in {**fitting, **more}.items()
    }
    return VocabularyTensors(
        full,
        usual,
        per_layer=frozenset(name for name in full if named.get(name) == "per layer"),
        staying=frozenset(name for name, value in chosen.items() if value == STAY),
        unclear=frozenset(unclear),
        has_embedding="embedding" in {named.get(name) for name in full} or FOLLOW in chosen.values(),
        notes=tuple(notes),
    )


def _judged(
    counts: Mapping[str, Counts], usual: Counts, certain: Container[str]
) -> tuple[dict[str, Counts], list[str], list[str]]:
    """The tensors whose rows fit the vocabulary, the names of those that may, and notes about others.

    Args:
        counts: Rows of the tensors with the name of an embedding or head.
        usual: Rows of the vocabulary.
        certain: Names that need no check.
    """
    fitting: dict[str, Counts] = {}
    unclear, notes = [], []
    for name, each in counts.items():
        extra = [n - usual[label] for label, n in each.items() if n]
        if name in certain:
            fitting[name] = each
        elif max(map(abs, extra)) > MOST_EXTRA_ROWS:
            notes.append(f"{name} has {_sizes(each)} rows: another vocabulary, merged in place")
        elif min(extra) < 0:
            unclear.append(name)
        else:
            fitting[name] = each
    return fitting, unclear, notes


def _unnamed(
    by_name: Mapping[str, Match],
    views: Mapping[str, View],
    usual: Counts,
    known: Container[str],
    chosen: Mapping[str, str],
) -> dict[str, Counts]:
    """The rows of tensors that follow the tokens by the setting, or because they grow as vocabularies do."""
    more: dict[str, Counts] = {}
    if not chosen and len(set(usual.values())) == 1:
        return more
    for name, match in by_name.items():
        if name not in known and chosen.get(name) != STAY:
            own = _counts(match, views) if chosen.get(name) == FOLLOW else _alike(match, views, usual)
            if own is not None:
                more[name] = own
    return more


def _chosen(wanted: Mapping[str, str], names: Mapping[str, Match]) -> dict[str, str]:
    """The setting's value for every tensor that it names; the first pattern that matches counts."""
    chosen: dict[str, str] = {}
    for pattern, value in wanted.items():
        fitting = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            fields = (("found", pattern), ("needed", "the name of a tensor, or a pattern with *"))
            near = nearest(pattern, names)
            fix = f"correct the name{near}, or leave it out"
            raise Problem(SettingsError, "vocabulary_tensors names no tensor", fields, fix).error()
        for name in fitting:
            chosen.setdefault(name, value)
    return chosen


def _counts(match: Match, views: Mapping[str, View]) -> dict[str, int]:
    return {label: _n_rows(match.of.get(label)) for label in views}


def _n_rows(source: Source | None) -> int:
    return source.shape[0] if source is not None and source.shape else 0


def _usual(
    views: Mapping[str, View], counts: Mapping[str, Counts], named: Mapping[str, str]
) -> Counts | None:
    """The rows of the embedding or the head: of several, those that the config of the first model gives."""
    whole = [
        each
        for name, each in counts.items()
        if all(each.values()) and named[name] != "per layer" and not is_in_layer(name)
    ]
    first, view = next(iter(views.items()))
    size = text_part(view.config).get("vocab_size")
    largest = max(whole, key=lambda each: each[first], default=None)
    return next((each for each in whole if each[first] == size), largest)


def _alike(match: Match, views: Mapping[str, View], usual: Counts) -> Counts | None:
    """The rows of a tensor without a known name, if they differ between the models as the vocabularies do."""
    counts = {label: _n_rows(source) for label, source in match.of.items()}
    if len(set(counts.values())) == 1 or not match.first.dtype.is_mergeable:
        return None
    is_alike = all(n == usual[label] for label, n in counts.items())
    return {label: counts.get(label, 0) for label in views} if is_alike else None


def _sizes(counts: Counts) -> str:
    return " and ".join(str(n) for n in dict.fromkeys(filter(None, counts.values())))


def lookalikes(matches: Sequence[Match], tensors: VocabularyTensors) -> list[Problem]:
    """Returns the problem with tensors that have as many rows as a vocabulary and may belong to it."""
    sizes: dict[str, set[int]] = {}
    for counts in (*tensors.counts.values(), *([tensors.usual] if tensors.usual else [])):
        for label, n in counts.items():
            sizes.setdefault(label, set()).add(n)
    names = [
        match.name
        for match in matches
        if match.name not in tensors.counts
        and match.name not in tensors.staying
        and not (len(match.first.shape) == 1 and is_in_layer(match.name))  # a bias comes with its matrix
        and (
            match.name in tensors.unclear
            or _is_other_table(match)
            or any(_has_rows(source, sizes.get(label, set())) for label, source in match.of.items())
        )
    ]
    if not names:
        return []
    shapes = {match.name: list(match.first.shape) for match in matches if match.name in names[:3]}
    found = listed([f"{name} {shapes[name]}" if name in shapes else name for name in names], 3)
    fields = (
        ("tensors", f"{len(names)}: {found}"),
        ("found", "as many rows as a vocabulary has, or part of an embedding"),
    )
    decided = setting("vocabulary_tensors", dict.fromkeys(_patterns(names), STAY))
    follow = setting("vocabulary_tensors", {names[0]: FOLLOW})
    fix = f"if these rows belong to tokens, use {follow}; if not, {decided}"
    headline = "the tokenizers differ, and rows of these tensors may belong to tokens"
    return [Problem(MismatchError, headline, fields, fix)]


def _is_other_table(match: Match) -> bool:
    """Whether it is a matrix in the embedding's module: Molmo 2 and IDEFICS keep more tokens in one."""
    is_matrix = len(match.first.shape) == 2 and match.first.dtype.is_mergeable
    return is_matrix and is_part_of_embedding(match.name)


def _has_rows(source: Source, sizes: set[int]) -> bool:
    """Whether one of these is the number of its rows, or of its columns if it is one row."""
    shape = source.shape
    if not shape:
        return False
    return shape[0] in sizes or (len(shape) == 2 and shape[0] == 1 and shape[1] in sizes)


def _patterns(names: Sequence[str]) -> list[str]:
    """The names with a star for the number of their layer."""
    parts = [[("*" if part.isdigit() else part) for part in name.split(".")] for name in names]
    return list(dict.fromkeys(".".join(each) for each in parts))
