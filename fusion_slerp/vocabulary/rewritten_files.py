"""The files of a tokenizer that gets more tokens, rewritten so that every loader gives them the same rows.

Loaders differ in the file that they read: the tokenizers library tokenizer.json, some classes of transformers
the list in tokenizer_config.json, older ones vocab.json or a SentencePiece model with added_tokens.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.vocabulary.child_tokenizer import matching_files
from fusion_slerp.vocabulary.tokens import (
    ADDED_TOKENS,
    FLAGS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Flags,
    Tokens,
    Vocabulary,
    dump,
    load,
    numbered,
    ordinary_tokens,
    read_config,
)

OLDER_FORMATS = ("vocab.json", "merges.txt", "vocab.txt", "bpe.codes", "*.model")
"""Formats next to a tokenizer.json whose loaders read added tokens from another file."""

CLOSED_FORMATS = ("tekken.json", "*.tiktoken", "tiktoken.model")
"""Formats whose loaders know only the tokens in the file itself. mistral-common prefers tekken.json."""


def stale_files(folder: Path, has_new_ordinary: bool) -> frozenset[str]:
    """Returns the files of a tokenizer that would lack its new tokens, and that a loader may prefer.

    Args:
        folder: With a tokenizer.json, which has all tokens.
        has_new_ordinary: Whether ordinary tokens are new, not only added ones.
    """
    patterns = (*OLDER_FORMATS, *CLOSED_FORMATS) if has_new_ordinary else CLOSED_FORMATS
    return frozenset(matching_files(folder, patterns))


def lists_of_added_tokens(
    folder: Path, rows: Vocabulary, base: Tokens, new: Mapping[str, Flags]
) -> dict[str, bytes]:
    """Returns the files next to a tokenizer.json that list the added tokens, rewritten where there are any.

    added_tokens.json is made if an older format is present: its loaders would not know the tokens otherwise.

    Args:
        folder: The tokenizer's.
        rows: The row of every token.
        base: The tokens that the tokenizer had.
        new: The flags of the new added tokens.
    """
    if not (new or base.moved or base.unlisted):
        return {}
    config = read_config(folder)
    written = {}
    if config.get("added_tokens_decoder"):
        known = list(config["added_tokens_decoder"].values())
        config["added_tokens_decoder"] = _decoder(known, rows, {**base.added, **new})
        written[TOKENIZER_CONFIG] = dump(config)
    file = folder / ADDED_TOKENS
    is_needed = TOKENIZER_CONFIG not in written and matching_files(folder, OLDER_FORMATS)
    if file.is_file() or is_needed or not (folder / TOKENIZER).is_file():
        known = load(file) if file.is_file() else base.added
        written[ADDED_TOKENS] = dump({token: rows[token] for token in {**known, **new} if token in rows})
    return written


def _decoder(
    known: Iterable[Mapping[str, Any]], rows: Vocabulary, added: Mapping[str, Flags]
) -> dict[str, Mapping[str, Any]]:
    """`added_tokens_decoder` with all added tokens, in the order of their rows."""
    entries: dict[str, Mapping[str, Any]] = {
        token: {"content": token, **flags} for token, flags in added.items()
    }
    entries |= {entry["content"]: entry for entry in known}
    in_order = sorted((token for token in entries if token in rows), key=rows.__getitem__)
    return {str(rows[token]): entries[token] for token in in_order}


def with_added_tokens(
    content: dict[str, Any], rows: Vocabulary, added: Mapping[str, Flags]
) -> dict[str, Any]:
    """Returns a tokenizer.json that lists these added tokens with their rows, whatever loads it.

    Args:
        content: The content of the file, with all ordinary tokens.
        rows: The row of every token.
        added: The flags of all added tokens.
    """
    listed = {token["content"]: token for token in content.get("added_tokens") or []}
    for token, flags in added.items():
        listed.setdefault(token, {"id": None, "content": token, **flags})
    in_order = sorted((token for token in listed if token in rows), key=rows.__getitem__)
    content["added_tokens"] = [{**listed[token], "id": rows[token]} for token in in_order]
    _fix_rows(content, rows)
    _fix_ids(content.get("post_processor"), rows)
    return content


def _fix_rows(content: dict[str, Any], rows: Vocabulary) -> None:
    """Puts the added tokens into the model's vocabulary if the library would number them differently."""
    vocab, added = content["model"]["vocab"], [token["content"] for token in content["added_tokens"]]
    loaded = numbered(ordinary_tokens(content), len(vocab), added)
    if isinstance(vocab, dict) and any(loaded[token] != rows[token] for token in added):
        for token in added:
            vocab.setdefault(token, rows[token])


def _fix_ids(part: Any, rows: Vocabulary) -> None:
    """Replaces the ids in a post-processor, which inserts them unchecked, by the rows of their tokens."""
    steps = part if isinstance(part, list) else [part]
    for step in steps:
        if not isinstance(step, dict):
            continue
        _fix_ids(step.get("processors"), rows)
        for entry in (step.get("special_tokens") or {}).values():
            entry["ids"] = [rows.get(t, i) for t, i in zip(entry["tokens"], entry["ids"], strict=True)]
        for key in ("sep", "cls"):
            if key in step:
                token, row = step[key]
                step[key] = [token, rows.get(token, row)]


def no_flags() -> Flags:
    """Returns the flags of an added token that no tokenizer describes."""
    return dict.fromkeys(FLAGS, False)
