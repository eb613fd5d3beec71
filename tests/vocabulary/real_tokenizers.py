"""Real tokenizers from packages on PyPI, as tokenizer.json.

The packages are neither installed nor imported: `make long` downloads their archives with pip, which are
read here. openai-whisper ships the byte-level vocabularies of GPT-2 and of its multilingual models;
mistral-common ships generations of Mistral's SentencePiece vocabulary, which rename reserved tokens in place.
"""

import base64
import tarfile
import zipfile
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp.vocabulary.sentencepiece_model import read_pieces
from tests.tokenizer_kinds import BYTES, LETTERS, added_token, tokenizer

ARCHIVES = Path(__file__).parents[2] / ".tokenizers"
MISTRAL = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
}
WHISPER = ("gpt2", "multilingual")

_CHARACTERS = dict(zip([*range(33, 127), *range(161, 173), *range(174, 256)], BYTES[:188], strict=True))
_CHARACTERS |= dict(zip((byte for byte in range(256) if byte not in _CHARACTERS), BYTES[188:], strict=True))
"""From byte to the character by which byte-level BPE writes it."""


def archive(pattern: str) -> Path:
    """The archive of a package; without it, the test is skipped."""
    found = sorted(ARCHIVES.glob(pattern))
    if not found:
        pytest.skip("`make long` downloads the packages with real tokenizers")
    return found[-1]


@cache
def byte_level(name: str) -> dict[str, Any]:
    """One of whisper's two vocabularies: tokens as bytes, numbered in the order of their merges."""
    with tarfile.open(archive("openai_whisper-*.tar.gz")) as package:
        (member,) = (each for each in package.getmembers() if each.name.endswith(f"assets/{name}.tiktoken"))
        stream = package.extractfile(member)
        assert stream is not None
        lines = [line.split() for line in stream.read().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    vocab = {"".join(map(_CHARACTERS.__getitem__, token)): rank for token, rank in ranks.items() if token}
    merges = [pair for token in ranks if len(token) > 1 for pair in [_last_merge(token, ranks)]]
    written = [["".join(map(_CHARACTERS.__getitem__, part)) for part in pair] for pair in merges]
    model = {"type": "BPE", "vocab": vocab, "merges": written}
    return {**tokenizer("byte-level BPE", []), "model": model, "added_tokens": []}


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts of a token that are left when all earlier merges have been made."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(one + two, len(ranks)) for one, two in pairwise(parts)]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


@cache
def pieces(name: str) -> tuple[str, ...]:
    """The tokens of one of Mistral's vocabularies, in the order of their rows."""
    with zipfile.ZipFile(archive("mistral_common-*.whl")) as package:
        return tuple(read_pieces(package.read(f"mistral_common/data/{MISTRAL[name]}")))


def sentencepiece(tokens: Sequence[str]) -> dict[str, Any]:
    """A tokenizer of these pieces, whose order is that of their merges; control tokens are added tokens."""
    content = tokenizer("byte-fallback BPE", [])
    vocab = {token: row for row, token in enumerate(tokens)}
    splits = ((token, i) for token in tokens for i in range(1, len(token)))
    merges = [[t[:i], t[i:]] for t, i in splits if t[:i] in vocab and t[i:] in vocab and not _is_control(t)]
    special = [added_token(t, row, special=True) for t, row in vocab.items() if _is_control(t)]
    return {
        **content,
        "model": {**content["model"], "vocab": vocab, "merges": merges},
        "added_tokens": special,
    }


def _is_control(token: str) -> bool:
    in_brackets = token.startswith("[") and token.endswith("]") and len(token) > 2
    return token in ("<unk>", "<s>", "</s>") or (in_brackets and any(c.lower() in LETTERS for c in token))
