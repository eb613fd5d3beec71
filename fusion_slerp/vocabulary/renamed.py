"""Reserved tokens that a fine-tune has renamed in place.

Tokenizers come with tokens for later use, such as `<|reserved_special_token_0|>`, whose rows are untrained.
A fine-tune that needs a token of its own may rename one: the row stays, its token changes. The reserved
token of the other model is then the same row under its old name, not a token that must be kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import permutations

from fusion_slerp.errors import listed, quoted
from fusion_slerp.vocabulary.tokens import Tokens, Vocabulary

_RESERVED = re.compile(
    r"(?<![a-z])(?:reserved|unused|dummy|place.?holder|control|special|extra(?!_id)|madeupword)(?![a-z])"
)
"""Words in names of reserved tokens: of Llama 3, Gemma, BERT, InternLM, DeepSeek, Phi, Mistral, Qwen, OPT."""

MARKS = ("<", "[", ">>", "madeupword")
"""Beginnings of the names of reserved tokens: no ordinary word has them."""

MAX_NAME = 60
"""Longer tokens are no names."""

MOST_COMPARED = 8
"""Different vocabularies of which each is compared with each: two take about 20 ms."""

OUTCOMES = {
    (True, False): "the new name",
    (False, True): "the old name",
    (True, True): "both",
    (False, False): "none",
}
"""Which of the two names the merged model has: by whether it has the new one, and the old one."""


def is_reserved(token: str) -> bool:
    """Whether a token's name says that it is for later use: such names are marked, and numbered."""
    is_marked = token.startswith(MARKS) and len(token) <= MAX_NAME and any(map(str.isdigit, token))
    return is_marked and bool(_RESERVED.search(token.lower()))


def renamed_in(other: Vocabulary, one: Vocabulary) -> dict[str, str]:
    """Returns the reserved tokens of one tokenizer that another has renamed, and their new names there.

    Args:
        other: The tokenizer that may have renamed them.
        one: The tokenizer with the reserved tokens.
    """
    reserved = [token for token in one if token not in other and is_reserved(token)]
    if not reserved:
        return {}
    rows = {one[token] for token in reserved}
    name_at = {row: token for token, row in other.items() if row in rows}
    names = {token: name_at.get(one[token]) for token in reserved}
    renamed = {
        token: name for token, name in names.items() if name and name not in one and not is_reserved(name)
    }
    return renamed if renamed and _are_of_one_family(other, one) else {}


def _are_of_one_family(one: Vocabulary, other: Vocabulary) -> bool:
    """Whether most of the tokens that two tokenizers have in common are in the same rows."""
    shared = one.keys() & other.keys()
    return 2 * sum(one[token] == other[token] for token in shared) > len(shared)


def missing(tokens: Vocabulary, other: Vocabulary) -> list[str]:
    """Returns the tokens of another tokenizer that one lacks, without those that it has renamed."""
    if other is tokens or not (lost := other.keys() - tokens.keys()):
        return []
    renamed = renamed_in(tokens, other)
    return [token for token in other if token in lost and token not in renamed]


def on_renamed_tokens(
    sources: Mapping[str, str], known: Mapping[str, Tokens | None], child: Vocabulary
) -> Iterator[str]:
    """Yields warnings about each pair of models of which one has renamed reserved tokens of the other.

    Args:
        sources: The user's names for the models, by label.
        known: Their tokens; None if they cannot be read.
        child: The merged model's vocabulary.
    """
    readable = {label: each.rows for label, each in known.items() if each is not None}
    first_with = {id(rows): label for label, rows in reversed(readable.items())}
    for one, other in permutations(sorted(first_with.values(), key=list(readable).index)[:MOST_COMPARED], 2):
        rows, by_outcome = readable[one], {}
        for old, new in renamed_in(readable[other], rows).items():
            shown = f"{quoted(old)} in row {rows[old]} is {quoted(new)}"
            by_outcome.setdefault(OUTCOMES[new in child, old in child], []).append(shown)
        for outcome, shown in by_outcome.items():
            yield (
                f"{sources[other]} has renamed reserved tokens of {sources[one]}: {listed(shown, 3)}; "
                f"the merged model has {outcome}"
            )
