"""Cases of vocabularies: tokens, rows, fillings of the others, and the files that state them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import sentencepiece_model, tokenizer_json, write_json
from tests.same_bytes.case import Case
from tests.same_bytes.parents import Make, write_parent
from tests.same_bytes.weights import Weight, bits, random_weights
from tests.tokenizer_kinds import KINDS, tokenizer

WORDS = [f"w{i}" for i in range(30)]
SHUFFLED = [WORDS[i] for i in np.argsort(bits(5, 30), kind="stable")]


@dataclass(frozen=True, slots=True)
class Words:
    """The vocabulary of a parent.

    Attributes:
        tokens: Its tokens, by row.
        n_rows: Rows of its matrices; None has no padding.
        added: Added tokens, after the others.
        config: Changes to its config.
        files: More of its files.
    """

    tokens: Sequence[str]
    n_rows: int | None = None
    added: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of its matrices."""
        return self.n_rows or len(self.tokens) + len(self.added)


def of_rows(seed: int, n_rows: int, code: str = "F32", width: int = 7) -> dict[str, Weight]:
    """Embedding, head and its bias, and a tensor without rows of tokens."""
    shapes = {
        "lm_head.bias": (n_rows,),
        "lm_head.weight": (n_rows, width),
        "model.embed_tokens.weight": (n_rows, width),
        "model.norm.weight": (width,),
    }
    return random_weights(seed, shapes, code)


def two(a: Words, b: Words, codes: tuple[str, str] = ("F32", "F32"), width: int = 7) -> Make:
    """Parents with these vocabularies."""

    def make(folder: Path) -> tuple[Path, Path]:
        return (
            _written(folder / "a", 1, a, codes[0], width),
            _written(folder / "b", 2, b, codes[1], width),
        )

    return make


def _written(folder: Path, seed: int, words: Words, code: str, width: int) -> Path:
    added = {token: len(words.tokens) + i for i, token in enumerate(words.added)}
    return write_parent(
        folder,
        of_rows(seed, words.rows, code, width),
        config={"vocab_size": words.rows, **words.config},
        tokens=None,
        files={"tokenizer.json": tokenizer_json(words.tokens, added), **words.files},
    )


def of_kind(kind: str, seed: int) -> Callable[[Path], Path]:
    """Writes a parent with a real tokenizer of a kind; each has its own words and added tokens."""
    words = [["hello", "world", "tree", "river"], ["hello", "apple", "river", "bread", "heath"]][seed - 1]
    content = tokenizer(kind, words, [["<a1>"], ["<b1>", "<b2>"]][seed - 1])
    n_rows = len(content["model"]["vocab"]) + len(content["added_tokens"])
    weights = {name: each for name, each in of_rows(seed, n_rows, "BF16", 3).items() if "bias" not in name}
    return lambda folder: write_parent(
        folder, weights, config={"vocab_size": n_rows}, tokens=None, files={"tokenizer.json": content}
    )


def two_of_kind(kind: str) -> Make:
    """Parents whose tokenizers are of one kind."""
    return lambda folder: (of_kind(kind, 1)(folder / "a"), of_kind(kind, 2)(folder / "b"))


def with_third(make: Make, tokens: Sequence[str], files: Mapping[str, Any] | None = None) -> Make:
    """The same parents with a folder that holds only a tokenizer next to them."""

    def made(folder: Path) -> tuple[Path, Path]:
        third = folder / "third"
        third.mkdir()
        for name, content in {"tokenizer.json": tokenizer_json(tokens), **(files or {})}.items():
            write_json(third / name, content)
        return make(folder)

    return made


def older(name: str, content: Callable[[Sequence[str]], Any]) -> Make:
    """Parents whose tokens are in a file of an older format, and added ones in another file."""

    def write(folder: Path, seed: int, tokens: Sequence[str], added: Sequence[str]) -> Path:
        rows = {token: len(tokens) + i for i, token in enumerate(added)}
        files = {name: content(tokens), "added_tokens.json": rows, "merges.txt": "#version: 0.2\n"}
        weights = of_rows(seed, len(tokens) + len(added))
        return write_parent(folder, weights, config={"vocab_size": 0}, tokens=None, files=files)

    return lambda folder: (
        write(folder / "a", 1, WORDS[:10], ["<a1>"]),
        write(folder / "b", 2, WORDS[:10], ["<b1>", "<b2>"]),
    )


def large(folder: Path, code: str = "BF16", width: int = 1111) -> tuple[Path, Path]:
    """Rows over several chunks: b's in another order, each parent with some of its own.

    In float64 no sum is exact, so that the order of all sums shows.
    """
    words = [f"w{i}" for i in range(2100)]
    order = np.argsort(bits(9, 2000), kind="stable")
    a = Words(words[:1900])
    b = Words([words[100:][row] for row in order])
    return two(a, b, (code, code), width)(folder)


UNION = two(Words(WORDS[:20], None, ["<a1>"]), Words(SHUFFLED[:25], None, ["<b1>", "<b2>"]))
TOKENS_OF_IDS = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 4}
WITH_IDS = two(
    Words(WORDS, config=TOKENS_OF_IDS, files={"generation_config.json": TOKENS_OF_IDS | {"top_p": 0.9}}),
    Words(SHUFFLED, config={"eos_token_id": 7}, files={"generation_config.json": {"eos_token_id": [7, 8]}}),
)
TEMPLATES = two(
    Words(WORDS, files={"tokenizer_config.json": {"chat_template": "{{ a }}"}}),
    Words(
        WORDS,
        files={
            "chat_template.jinja": "{{ b }}",
            "additional_chat_templates/rag.jinja": "{{ rag }}",
            "tokenizer_config.json": {"eos_token": "w1"},
        },
    ),
)
NESTED = two(
    Words(WORDS[:12], config={"vocab_size": None, "text_config": {"vocab_size": 12, "dtype": "float32"}}),
    Words(WORDS[:15], config={"vocab_size": None, "text_config": {"vocab_size": 15, "dtype": "float32"}}),
)
DECODER = {"0": {"content": "w0", "special": True}}
DECODERS = two(
    Words(WORDS[:9], None, ["<a1>"], files={"tokenizer_config.json": {"added_tokens_decoder": DECODER}}),
    Words(WORDS[:9], None, ["<b1>"], files={"tokenizer_config.json": {"added_tokens_decoder": DECODER}}),
)
SOURCES = {
    "w3": {"source": "b", "force": True},
    "w4": {"source": {"kind": "zero"}, "force": True},
    "w5": {"source": "b"},
    "<a1>": {"source": {"kind": "model_token", "model": "b", "token": "<b2>"}, "force": True},
    "<b1>": {"source": {"kind": "model_token", "model": "a", "token_id": 2}},
    "<new>": {"source": {"kind": "model_token", "model": "a", "token": "w7"}},
    "<empty>": {"source": {"kind": "zero"}},
}

_CASES = {
    "b permuted": Case(two(Words(WORDS), Words(SHUFFLED)), {"t": 0.3}),
    "b permuted, t = 0": Case(two(Words(WORDS), Words(SHUFFLED)), {"t": 0}),
    "b permuted, t = 1": Case(two(Words(WORDS), Words(SHUFFLED)), {"t": 1}),
    "a has more": Case(two(Words(WORDS), Words(WORDS[:25])), {"t": 0.3}),
    "b has more": Case(two(Words(WORDS[:11]), Words(WORDS)), {"t": 0.3}),
    "a is padded": Case(two(Words(WORDS, 40), Words(WORDS)), {"t": 0.3}),
    "b's tokens lie in a's padding": Case(two(Words(WORDS[:25], 40), Words(WORDS)), {"t": 0.3}),
    "nothing shared": Case(two(Words(WORDS[:12]), Words(WORDS[12:])), {"t": 0.3}),
    "types differ": Case(
        two(Words(WORDS[:20], 22), Words(SHUFFLED), ("BF16", "F32")), {"t": 0.3, "dtype": "float16"}
    ),
    **{
        f"union, {fill}": Case(UNION, {"t": 0.3, "vocab_fill": fill, "pad_vocab_to_multiple_of": 16})
        for fill in ("owner", "mean", "gradient", "zeros")
    },
    "union, t = 1": Case(UNION, {"t": 1}),
    "union, gradient, bfloat16": Case(UNION, {"t": 0.3, "vocab_fill": "gradient", "dtype": "bfloat16"}),
    "union, rows": Case(UNION, {"t": 0.3, "granularity": "row"}),
    "tokenizer a": Case(UNION, {"t": 0.3, "tokenizer": "a"}),
    "tokenizer b": Case(UNION, {"t": 0.3, "tokenizer": "b"}),
    "third tokenizer": Case(
        with_third(UNION, [*SHUFFLED[3:12], "third", *WORDS[12:17]]),
        {"t": 0.3, "tokenizer": "{folder}/third"},
    ),
    "third tokenizer, mean": Case(
        with_third(UNION, [*WORDS[:4], "third", "fourth"], {"tokenizer_config.json": {"bos_token": "w1"}}),
        {"t": 0.3, "tokenizer": "{folder}/third", "vocab_fill": "mean"},
    ),
    "token sources": Case(UNION, {"t": 0.3, "tokens": SOURCES}),
    "token sources, zeros, padded": Case(
        UNION, {"t": 0.3, "tokens": SOURCES, "vocab_fill": "zeros", "pad_vocab_to_multiple_of": 64}
    ),
    "padded alone": Case(two(Words(WORDS), Words(WORDS)), {"t": 0.3, "pad_vocab_to_multiple_of": 32}),
    "chat template": Case(two(Words(WORDS), Words(WORDS)), {"t": 0.3, "chat_template": "{{ mine }}"}),
    "chat template in place of a's": Case(TEMPLATES, {"t": 0.3, "chat_template": "{{ mine }}"}),
    "chat templates of b": Case(TEMPLATES, {"t": 0.3, "tokenizer": "b"}),
    "ids of special tokens": Case(WITH_IDS, {"t": 0.3}),
    "ids of special tokens, tokenizer b": Case(WITH_IDS, {"t": 0.3, "tokenizer": "b"}),
    "nested config": Case(NESTED, {"t": 0.3, "dtype": "bfloat16"}),
    "decoder of added tokens": Case(DECODERS, {"t": 0.3}),
    **{f"union of {kind}": Case(two_of_kind(kind), {"t": 0.4}) for kind in KINDS},
    "vocab.json": Case(older("vocab.json", lambda tokens: {t: i for i, t in enumerate(tokens)}), {"t": 0.3}),
    "vocab.txt": Case(older("vocab.txt", "\n".join), {"t": 0.3}),
    "tokenizer.model": Case(older("tokenizer.model", sentencepiece_model), {"t": 0.3}),
    "large": Case(large, {"t": 0.3}),
    "large, gradient": Case(large, {"t": 0.3, "vocab_fill": "gradient", "memory_budget": "60MB"}),
    "large, float64": Case(partial(large, code="F64", width=601), {"t": 0.3}),
    "large, float64, mean": Case(
        partial(large, code="F64", width=201),
        {"t": 0.3, "vocab_fill": "mean", "pad_vocab_to_multiple_of": 64},
    ),
    "large, mean": Case(large, {"t": [0.3], "vocab_fill": "mean", "dtype": "float32"}),
}

OF_VOCABULARIES = {f"vocabulary: {name}": case for name, case in _CASES.items()}
