"""How a tokenizer.json cuts a text, apart from its tokens, in a form in which equal behaviour is equal data.

Two files of one behaviour may differ: one states a default that the other omits, or has a list of one step.
So every step is completed with its defaults, and properties without an effect on ids or text are removed.

Source: the format of tokenizer.json and its defaults, https://github.com/huggingface/tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fusion_slerp.hashes import digest_of

STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
"""Parts of a tokenizer.json that are compared, as `model` is. Truncation and padding are set by callers."""

Part = Any
"""None, a mapping or a list of mappings, as read from JSON."""

_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")
"""Keys of the steps of a `Sequence`."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ByteLevel": {"add_prefix_space": True, "use_regex": True},
    "Metaspace": {"replacement": "▁", "prepend_scheme": "always", "split": True},
    "Digits": {"individual_digits": False},
    "Split": {"invert": False},
    "Punctuation": {"behavior": "Isolated"},
    "BertNormalizer": {"clean_text": True, "handle_chinese_chars": True, "lowercase": True},
    "WordPiece": {"prefix": "##", "cleanup": True},
    "BPEDecoder": {"suffix": "</w>"},
}
"""Properties of a step where they are absent."""

OF_MODELS: Mapping[str, Mapping[str, Any]] = {
    "BPE": {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
    "WordPiece": {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    "WordLevel": {"unk_token": "<unk>"},
    "Unigram": {"byte_fallback": False},
}
"""Properties of a model where they are absent."""

_WITHOUT_EFFECT = frozenset({"trim_offsets", "str_rep"})
"""Properties that change neither ids nor text."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How a tokenizer cuts a text.

    Attributes:
        kind: Of its model, as `kind_of`.
        parts: Its steps and the options of its model, completed with defaults.
        order: Digest of its merges, or of its tokens' scores; None if not computed, or if it has neither.
    """

    kind: str
    parts: Mapping[str, Part]
    order: str | None = None


def pipeline_of(tokenizer: Mapping[str, Any], with_order: bool = False) -> Pipeline:
    """Returns how a tokenizer.json cuts a text.

    Args:
        tokenizer: Its content.
        with_order: Whether to compute the digest of merges or scores: about 0.1 s for 280,000 merges.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: A part is not what the format says.
    """
    kind = kind_of(tokenizer)
    parts = {name: _canonical(tokenizer.get(name)) for name in STEPS}
    for name, simplify in _SIMPLIFIED.items():
        parts[name] = _joined([step for each in _steps(parts[name]) if (step := simplify(each))])
    parts["model"] = _model_options(tokenizer["model"], kind)
    return Pipeline(kind, parts, _order(tokenizer["model"]) if with_order else None)


def model_type(model: Mapping[str, Any]) -> str:
    """`"BPE"`, `"WordPiece"`, `"WordLevel"` or `"Unigram"`; older files, such as gpt2's, do not name it."""
    if "type" in model:
        return model["type"]
    if "merges" in model:
        return "BPE"
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def kind_of(tokenizer: Mapping[str, Any]) -> str:
    """Returns the type of a tokenizer's model, and how its tokens spell a text.

    Tokens of two kinds may be spelled alike and stand for different texts: byte-level BPE writes each byte
    of a text as a character, a space as `Ġ`; SentencePiece BPE writes characters, a space as `▁`. Marks of
    pieces within words and at their ends are named as well.
    """
    model = tokenizer["model"]
    name = model_type(model)
    if name == "BPE":
        name = f"{_spelling(tokenizer)}BPE"
    marks = [model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")]
    return " ".join([name, *(repr(mark) for mark in marks if mark)])


def _spelling(tokenizer: Mapping[str, Any]) -> str:
    steps = [step for name in ("pre_tokenizer", "decoder") for step in _steps(tokenizer.get(name))]
    if any(step.get("type") == "ByteLevel" for step in steps):
        return "byte-level "
    spaces = (
        step for step in _steps(tokenizer.get("normalizer")) if step.get("type") in ("Prepend", "Replace")
    )
    marks_spaces = any("▁" in (step.get("prepend"), step.get("content")) for step in spaces)
    has_metaspace = any(step.get("type") == "Metaspace" for step in steps)
    return (
        "SentencePiece " if tokenizer["model"].get("byte_fallback") or marks_spaces or has_metaspace else ""
    )


def described(part: Part) -> str:
    """Returns a step, or a list of them, in a few words: their types, and patterns if there are any."""
    return " + ".join(_described(step) for step in _steps(part)) or "none"


def _described(step: Mapping[str, Any]) -> str:
    name = str(step.get("type"))
    patterns = (step.get(key) for key in ("pattern", "prepend", "content"))
    words = [next(iter(p.values()), "") if isinstance(p, Mapping) else p for p in patterns if p]
    return " ".join([name, *(repr(word) for word in words)])


def _steps(part: Part) -> Iterator[Mapping[str, Any]]:
    """The steps of a part, in their order, without nested lists of them."""
    if part is None:
        return
    if not isinstance(part, (Mapping, list)):
        raise TypeError(f"a step is {type(part).__name__}")
    if isinstance(part, Mapping) and not any(key in part for key in _LISTS):
        yield part
        return
    for each in part if isinstance(part, list) else next(part[key] for key in _LISTS if key in part):
        yield from _steps(each)


def _canonical(part: Part) -> Part:
    return _joined([_completed(step) for step in _steps(part)])


def _joined(steps: list[Mapping[str, Any]]) -> Part:
    """One step as itself, none as None."""
    return steps if len(steps) > 1 else next(iter(steps), None)


def _completed(step: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in step.items() if value is not None and key not in _WITHOUT_EFFECT}
    if given.get("type") == "Metaspace" and "add_prefix_space" in given:
        scheme = "always" if given.pop("add_prefix_space") else "never"
        given.setdefault("prepend_scheme", scheme)
    return {**DEFAULTS.get(given.get("type", ""), {}), **given}


def _post_processor(step: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A step of a post-processor with tokens in place of ids; None if it adds no token."""
    if step.get("type") == "TemplateProcessing":
        pieces = [piece for key in ("single", "pair") for piece in step.get(key) or []]
        if not any("SpecialToken" in piece for piece in pieces):
            return None
        tokens = {name: entry["tokens"] for name, entry in (step.get("special_tokens") or {}).items()}
        return {**step, "special_tokens": tokens}
    if step.get("type") == "ByteLevel":
        return None  # changes offsets alone
    named = {key: step[key][0] for key in ("sep", "cls") if key in step}
    return {"type": step.get("type"), **named}


def _decoder(step: Mapping[str, Any]) -> Mapping[str, Any]:
    if step.get("type") == "ByteLevel":
        return {"type": "ByteLevel"}
    return {key: value for key, value in step.items() if (step.get("type"), key) != ("Metaspace", "split")}


_SIMPLIFIED: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any] | None]] = {
    "post_processor": _post_processor,
    "decoder": _decoder,
}


def _model_options(model: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The options of a model, without what its kind never uses: bytes leave nothing unknown."""
    unused = {"type", "vocab", "merges"} | (
        {"unk_token", "fuse_unk"} if kind.startswith("byte-level") else set()
    )
    given = {key: value for key, value in model.items() if value not in (None, "", 0.0) or value is False}
    options = {**OF_MODELS.get(model_type(model), {}), **given}
    return {key: value for key, value in options.items() if key not in unused}


def _order(model: Mapping[str, Any]) -> str | None:
    if isinstance(model["vocab"], list):
        lines = [f"{token} {score}" for token, score in sorted(model["vocab"])]
    elif "merges" in model:
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    else:
        return None
    return digest_of("\n".join(lines).encode("utf-8", "surrogatepass"), "sha256")
