"""Warnings about tokenizers that differ in more than their tokens: the merged model has one model's.

Equal files are one object here (`tokens.read_all`), so that only files that differ are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, listed, printable, quoted
from fusion_slerp.vocabulary.chat_templates import DEFAULT, Templates, chat_templates
from fusion_slerp.vocabulary.pipeline import Pipeline, described
from fusion_slerp.vocabulary.remarks import counted, enumerated
from fusion_slerp.vocabulary.tokenizer_classes import ADD_BOS, class_of
from fusion_slerp.vocabulary.tokens import FLAGS, Flags, Tokens, read_config, special_tokens

SWITCHES = ("add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens")
"""Keys of tokenizer_config.json that change the ids of a text."""

ENDS = ("bos_token", "eos_token")
"""Special tokens of tokenizer_config.json that begin or end a text."""


@dataclass(frozen=True, slots=True, eq=False)
class Behaviour:
    """A tokenizer, apart from its tokens' rows.

    Attributes:
        source: The user's name for the model or folder.
        tokens: Its tokens; None if they cannot be read.
        config: Its tokenizer_config.json.
        templates: Its chat templates.
        is_of_base: Whether it is the base's. Only its rows matter, so that it is compared in nothing but what
            gives equal strings another meaning.
    """

    source: str
    tokens: Tokens | None
    config: Mapping[str, Any]
    templates: Templates
    is_of_base: bool = False

    @property
    def added(self) -> Mapping[str, Flags]:
        """The flags of the added tokens; transformers adds the special tokens that its config names."""
        added: dict[str, Flags] = dict(self.tokens.added) if self.tokens else {}
        for token in special_tokens(self.config).values():
            flags = dict(added.get(token) or dict.fromkeys(FLAGS, False))
            added[token] = flags | {"special": True}
        return added


def behaviour(source: str, folder: Path, tokens: Tokens | None) -> Behaviour:
    """Returns what the files in a folder say about a tokenizer whose tokens are known."""
    return Behaviour(source, tokens, read_config(folder), chat_templates(folder))


def on_differences(child: Behaviour, others: Sequence[Behaviour], with_templates: bool) -> Iterator[str]:
    """Yields a warning for each respect in which tokenizers differ.

    Args:
        child: The tokenizer that the merged model has, or that it has with more tokens.
        others: Those of the other models.
        with_templates: Whether chat templates are compared.
    """
    differing: list[tuple[str, str, Behaviour]] = []
    for other in others:
        found = [*_in_pipelines(child, other)]
        if not other.is_of_base:
            found += [*_in_flags(child, other), *_in_configs(child, other)]
        differing += [(what, detail, other) for what, detail in found]
        if (
            with_templates
            and not other.is_of_base
            and (what := _in_templates(child.templates, other.templates))
        ):
            differing.append((what, "", other))
    order = list(dict.fromkeys(what for what, *_ in differing))
    differing.sort(key=lambda each: order.index(each[0]))
    for what, group in groupby(differing, key=lambda each: each[0]):
        yield _remark(child, what, [(detail, other) for _, detail, other in group])


def _remark(child: Behaviour, what: str, differing: Sequence[tuple[str, Behaviour]]) -> str:
    sources = [other.source for _, other in differing]
    details = dict.fromkeys(detail for detail, _ in differing)
    shown = f" ({next(iter(details))})" if len(details) == 1 and next(iter(details)) else ""
    subject, verb, its = ("", "differs", "its") if len(sources) == 1 else ("s", "differ", "their")
    return (
        f"the tokenizer{subject} of {enumerated(sources)} {verb} from that of {child.source} in {its} "
        f"{what}{shown}; the merged model follows {child.source}"
    )


def _in_pipelines(child: Behaviour, other: Behaviour) -> Iterator[tuple[str, str]]:
    one, two = (each.tokens and each.tokens.pipeline for each in (child, other))
    if one is None or two is None or one is two:
        return
    if one.kind != two.kind:
        yield (
            "kind",
            f"{_shown(two.kind)}, not {_shown(one.kind)}: equal strings may stand for different texts",
        )
        return
    for name, part in one.parts.items():
        if part != two.parts[name]:
            yield name, _options(part, two.parts[name]) if name == "model" else _steps(part, two.parts[name])
    if _order_differs(one, two) and _have_equal_tokens(child, other):
        yield (
            ("scores" if one.kind == "Unigram" else "merges"),
            "the same tokens, but texts are cut differently",
        )


def _steps(one: Any, two: Any) -> str:
    found, wanted = (_shown(described(part)) for part in (two, one))
    return f"{found}, not {wanted}" if found != wanted else found


def _options(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    names = [key for key in (*one, *(k for k in two if k not in one)) if one.get(key) != two.get(key)]
    return ", ".join(f"{_shown(key)} {_shown(two.get(key))}, not {_shown(one.get(key))}" for key in names[:3])


def _order_differs(one: Pipeline, two: Pipeline) -> bool:
    return None not in (one.order, two.order) and one.order != two.order


def _have_equal_tokens(child: Behaviour, other: Behaviour) -> bool:
    ordinary = [each.tokens.rows.keys() - each.added.keys() for each in (child, other) if each.tokens]
    return ordinary[0] == ordinary[1]


def _in_flags(child: Behaviour, other: Behaviour) -> Iterator[tuple[str, str]]:
    """Added tokens that both know, and that are found in a text, or left out of one, differently."""
    if child.tokens is None or other.tokens is None or child.tokens is other.tokens:
        return
    unused = {"normalized"} if _has_no_normalizer(child) and _has_no_normalizer(other) else set()
    one, two = child.added, other.added
    flags = [flag for flag in FLAGS if flag not in unused]
    differing: dict[str, list[str]] = {}
    for token in {**one, **two}:
        if token not in child.tokens.rows or token not in other.tokens.rows:
            continue
        if token not in one or token not in two:
            differing.setdefault(f"added in {(child if token in one else other).source} alone", []).append(
                token
            )
            continue
        for flag in flags:
            if one[token][flag] != two[token][flag]:
                owner = child if one[token][flag] else other
                differing.setdefault(f"{flag} in {owner.source} alone", []).append(token)
    for what, tokens in differing.items():
        named = listed([quoted(token) for token in tokens], 3)
        yield "added tokens", f"{counted(len(tokens), 'token')} {what}: {named}"


def _has_no_normalizer(each: Behaviour) -> bool:
    pipeline = each.tokens and each.tokens.pipeline
    return pipeline is not None and pipeline.parts["normalizer"] is None


def _in_configs(child: Behaviour, other: Behaviour) -> Iterator[tuple[str, str]]:
    for key in SWITCHES:
        one, two = (_switch(each.config, key) for each in (child, other))
        if None not in (one, two) and one != two:
            yield key, f"{_shown(two)}, not {_shown(one)}"
    of_child, of_other = special_tokens(child.config), special_tokens(other.config)
    for key in ENDS:
        if key in of_child and key in of_other and of_child[key] != of_other[key]:
            yield key, f"{quoted(of_other[key])}, not {quoted(of_child[key])}"


def _switch(config: Mapping[str, Any], key: str) -> bool | None:
    """The value of a switch, by default its class's; None if another file decides on it."""
    value = config.get(key)
    if not isinstance(value, bool) and key == "add_bos_token":
        return ADD_BOS.get(class_of(config))
    if value is None and key in ("add_eos_token", "split_special_tokens") and config:
        return False
    return value if isinstance(value, bool) else None


def _in_templates(child: Templates, other: Templates) -> str | None:
    """The names of the chat templates that differ, if both models have any."""
    if not child or not other:
        return None
    names = [name for name in {**child, **other} if _text(child.get(name)) != _text(other.get(name))]
    if not names:
        return None
    return (
        "chat template" if names == [DEFAULT] else f"chat templates {listed([quoted(n) for n in names], 3)}"
    )


def _text(template: str | None) -> str | None:
    """A template without the end of its last line, which Jinja ignores."""
    return template and template.replace("\r\n", "\n").removesuffix("\n")


def _shown(value: object) -> str:
    return printable(str(value), SHOWN_NAME)
