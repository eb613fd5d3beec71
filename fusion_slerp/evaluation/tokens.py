"""Cuts a text into the tokens of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as a model reads it.

    Attributes:
        ids: Token ids of each document: int64, shape [tokens], on the CPU.
        digest: Of the tokens as strings: two models with equal digests are scored on the same task, whatever
            ids they have for them.
        n_bytes: Bytes of UTF-8 that the scored tokens cover: those of all tokens but the first of a document.
        stops: How many characters of each document the tokens cover.
    """

    ids: list[Tensor]
    digest: str
    n_bytes: int
    stops: list[int]


def cut(tokenizer: Any, documents: Iterable[str], max_tokens: int | None = None) -> Tokens:
    """Returns a text as tokens, with the special tokens that the tokenizer adds by default.

    Args:
        tokenizer: A transformers tokenizer.
        documents: The texts, in reading order; not read further than needed.
        max_tokens: Read at most this many tokens in all; the document in which they end is truncated, and
            later ones are left out.
    """
    digest, all_ids, stops, n_bytes, n_tokens = hashlib.blake2b(digest_size=16), [], [], 0, 0
    has_spans = bool(getattr(tokenizer, "is_fast", False))
    for document in documents:
        # verbose=False: no warning that the document exceeds the model's context; windows take care of that.
        encoded = tokenizer(
            document, verbose=False, **({"return_offsets_mapping": True} if has_spans else {})
        )
        ids = encoded["input_ids"]
        is_whole = max_tokens is None or n_tokens + len(ids) <= max_tokens
        ids = ids if is_whole or max_tokens is None else ids[: max_tokens - n_tokens]
        spans = encoded["offset_mapping"][: len(ids)] if has_spans else None
        covered = _ends(tokenizer, ids, spans)
        stop = len(document) if is_whole else covered(len(ids))
        n_bytes += len(document[covered(1) : stop].encode(errors="replace"))
        digest.update(json.dumps(tokenizer.convert_ids_to_tokens(ids)).encode() + b"\n")
        all_ids.append(torch.tensor(ids, dtype=torch.int64))
        stops.append(stop)
        n_tokens += len(ids)
        if max_tokens is not None and n_tokens >= max_tokens:
            break
    return Tokens(all_ids, digest.hexdigest(), n_bytes, stops)


def _ends(
    tokenizer: Any, ids: Sequence[int], spans: Sequence[tuple[int, int]] | None
) -> Callable[[int], int]:
    """Returns how many characters of a document its first tokens cover.

    Special tokens cover none. Without the tokenizer's own account, the tokens are decoded.
    """

    def covered(n_tokens: int) -> int:
        if spans is not None:
            return max((stop for _, stop in spans[:n_tokens]), default=0)
        return len(tokenizer.decode(ids[:n_tokens], skip_special_tokens=True))

    return covered
