"""Tokenizers of every kind that tokenizer.json knows, made of the words they are to know.

Small, but real: the tokenizers library loads them, and each word is one token.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.models import tokenizer_json

KINDS = ("byte-level BPE", "byte-level BPE, pairs", "byte-fallback BPE", "Unigram", "WordPiece", "WordLevel")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BYTES = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
BYTES += [chr(256 + i) for i in range(68)]
"""The 256 characters by which byte-level BPE writes bytes."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def added_token(content: str, row: int, **flags: bool) -> dict[str, Any]:
    """An entry of `added_tokens`; flags that are not named are False."""
    return {"id": row, "content": content, **dict.fromkeys(FLAGS, False), **flags}


def tokenizer(
    kind: str,
    words: Sequence[str],
    added: Mapping[str, Mapping[str, bool]] | Iterable[str] = (),
    special: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of a tokenizer.json.

    Args:
        kind: One of `KINDS`.
        words: Lower-case words; each is one token, where a space stands before it if the kind cares.
        added: Added tokens, with their flags if there are any; numbered behind the vocabulary.
        special: Tokens of the vocabulary that are listed as special added tokens, too.
    """
    content = _MAKERS[kind](words)
    vocab = content["model"]["vocab"]
    known = {token: row for row, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
    flags = added if isinstance(added, Mapping) else {token: {} for token in added}
    content["added_tokens"] = [
        *(added_token(token, known[token], special=True) for token in special),
        *(added_token(token, len(known) + i, **flags[token]) for i, token in enumerate(flags)),
    ]
    return content


def _chain(word: str) -> list[tuple[str, str]]:
    """The merges that make a word of its letters, from the left."""
    return [(word[:i], word[i]) for i in range(1, len(word))]


def _bpe(base: Sequence[str], words: Sequence[str], **model: Any) -> dict[str, Any]:
    merges = list(dict.fromkeys(pair for word in words for pair in _chain(word)))
    tokens = dict.fromkeys([*base, *("".join(pair) for pair in merges)])
    vocab = {token: row for row, token in enumerate(tokens)}
    return {"type": "BPE", "vocab": vocab, "merges": [" ".join(pair) for pair in merges], **model}


def _byte_level(words: Sequence[str]) -> dict[str, Any]:
    options = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = _bpe(["<|end|>", *BYTES], [f"Ġ{word}" for word in words])
    return tokenizer_json() | {"pre_tokenizer": options, "decoder": options, "model": model}


def _byte_level_pairs(words: Sequence[str]) -> dict[str, Any]:
    content = _byte_level(words)
    content["model"]["merges"] = [merge.split(" ") for merge in content["model"]["merges"]]
    return content


def _byte_fallback(words: Sequence[str]) -> dict[str, Any]:
    """As Llama 2 has it: a space is part of the word behind it, unknown characters are bytes."""
    base = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    model = _bpe(base, [f"▁{word}" for word in words], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return tokenizer_json() | {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _unigram(words: Sequence[str]) -> dict[str, Any]:
    pieces = [["<unk>", 0.0], ["▁", -8.0], *([letter, -9.0] for letter in LETTERS)]
    pieces += [[f"▁{word}", -3.0 - i / 7] for i, word in enumerate(words)]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    return tokenizer_json() | {"pre_tokenizer": metaspace, "decoder": metaspace, "model": model}


def _word_piece(words: Sequence[str]) -> dict[str, Any]:
    tokens = dict.fromkeys(["[UNK]", "[PAD]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *words])
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: row for row, token in enumerate(tokens)},
    }
    return tokenizer_json() | {"model": model}


def _word_level(words: Sequence[str]) -> dict[str, Any]:
    return tokenizer_json(["<unk>", *words])


_MAKERS = {
    "byte-level BPE": _byte_level,
    "byte-level BPE, pairs": _byte_level_pairs,
    "byte-fallback BPE": _byte_fallback,
    "Unigram": _unigram,
    "WordPiece": _word_piece,
    "WordLevel": _word_level,
}
