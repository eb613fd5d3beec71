"""The child's tokenizer: the files of one folder, byte for byte, or a union of both parents'."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from fusion_slerp.errors import CheckpointError, MismatchError, Problem
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.links import TEMPLATES
from fusion_slerp.sources.opening import resolve
from fusion_slerp.sources.regular_files import read_regular
from fusion_slerp.vocabulary.new_tokens import extend
from fusion_slerp.vocabulary.tokens import (
    TOKENIZER_CONFIG,
    Tokens,
    Vocabulary,
    dump,
    load,
    read_config,
    read_tokens,
)

CHAT_TEMPLATE = "chat_template.jinja"
MORE_TEMPLATES = f"{TEMPLATES}/"

MAX_TEMPLATE_NBYTES = 1_000_000
"""A larger chat template is taken for none: the largest that are known have some 20 KB."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    CHAT_TEMPLATE,
    "chat_template.json",
    f"{MORE_TEMPLATES}*.jinja",
)

VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.json",
    "added_tokens.json",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)
"""Those that decide on a token's row, in the formats that are read and in those that are not."""

Parent = tuple[Checkpoint, Tokens | None]
"""A checkpoint and the tokens of its tokenizer; None if it has none that can be read."""


@dataclass(frozen=True, slots=True)
class ChildTokenizer:
    """Where the child's tokenizer comes from.

    Attributes:
        folder: Gives the files.
        rows: The row of every token; None if that cannot be read.
        giver: The parent in whose folder it is, whose special tokens go with it; None for neither.
        written: Files that are written anew, by name; empty where one folder serves as it is.
        omitted: Files of the folder that are not copied.
    """

    folder: Path
    rows: Vocabulary | None = field(repr=False)
    giver: Literal["a", "b"] | None
    written: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    omitted: frozenset[str] = frozenset()

    @property
    def files(self) -> dict[str, Path | bytes]:
        """The child's tokenizer files, by name: where from, or their content."""
        found = tokenizer_files(self.folder)
        return {**{name: path for name, path in found.items() if name not in self.omitted}, **self.written}

    @property
    def config(self) -> dict[str, Any]:
        """Its tokenizer_config.json; empty if it has none that can be read."""
        return read_config(self.folder, self.written.get(TOKENIZER_CONFIG))

    @property
    def chat_template(self) -> str | None:
        """The child's chat template; None if it has none."""
        written = self.written.get(CHAT_TEMPLATE)
        return written.decode("utf-8", "replace") if written else chat_template(self.folder)


def chat_template(folder: Path) -> str | None:
    """Returns the chat template beside a tokenizer; None if there is none."""
    try:
        if (folder / CHAT_TEMPLATE).is_file():
            return read_regular(folder / CHAT_TEMPLATE, MAX_TEMPLATE_NBYTES).decode("utf-8")
        found = read_config(folder).get("chat_template")
        if found is None and (folder / "chat_template.json").is_file():
            found = load(folder / "chat_template.json")["chat_template"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    return found if found is None or isinstance(found, str) else json.dumps(found)


def template_files(folder: Path) -> dict[str, bytes]:
    """Returns the chat templates of a folder as files, those in its tokenizer_config.json included."""
    patterns = (CHAT_TEMPLATE, "chat_template.json", f"{MORE_TEMPLATES}*.jinja")
    small = {
        n: p for n, p in matching_files(folder, patterns).items() if p.stat().st_size <= MAX_TEMPLATE_NBYTES
    }
    files = {name: read_regular(path, MAX_TEMPLATE_NBYTES) for name, path in small.items()}
    found = read_config(folder).get("chat_template")
    listed = found if isinstance(found, list) else [{"name": "default", "template": found}]
    for entry in listed:
        name, text = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("name", "template"))
        if isinstance(name, str) and isinstance(text, str) and re.fullmatch(r"[\w-]{1,60}", name):
            file = CHAT_TEMPLATE if name == "default" else f"{MORE_TEMPLATES}{name}.jinja"
            files.setdefault(file, text.encode("utf-8", "replace"))
    return files


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Returns a folder's tokenizer and chat template files, by their path in it."""
    return matching_files(folder, TOKENIZER_FILES)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer; a chat template or a config of one alone is none."""
    return bool(matching_files(folder, VOCABULARY_FILES))


def matching_files(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Returns the files of a model folder whose path in it matches a pattern."""
    inside = [*folder.glob("*"), *folder.glob(f"{MORE_TEMPLATES}*")]
    named = {path.relative_to(folder).as_posix(): path for path in inside if path.is_file()}
    return {
        name: path for name, path in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def choose_tokenizer(
    a: Parent, b: Parent, setting: str, named: Sequence[str] = (), follow_links: bool = False
) -> tuple[ChildTokenizer, list[str]]:
    """Returns the child's tokenizer, and remarks.

    Args:
        a: Parent a.
        b: Parent b.
        setting: `"a"`, `"b"`, `"union"`, or a folder or hub id.
        named: Tokens that the child is to have in any case.
        follow_links: Whether files of that folder may be links that lead out of it.

    Raises:
        CheckpointError: The folder does not exist, or was asked for and holds no tokenizer; or links
            lead out of it.
        MismatchError: The tokenizers cannot be united, or tokens not be added.
    """
    if setting == "union":
        chosen, remarks = _with_the_tokens_of_both(a, b, named)
    else:
        chosen, remarks = _asked_for(a, b, setting, follow_links)
    new = [token for token in named if token not in (chosen.rows or {})]
    if not new:
        return chosen, remarks
    tokens = read_tokens(chosen.folder)
    if tokens is None:
        fields = (("tokens", ", ".join(new)), ("tokenizer", chosen.folder))
        fix = "name tokens that a parent has, or set tokenizer: a or b"
        raise Problem(MismatchError, "tokens cannot be added to this tokenizer", fields, fix).error()
    more = extend(chosen.folder, tokens, new)
    remarks.append(f"new tokens, as the setting tokens says: {', '.join(new)}")
    return ChildTokenizer(chosen.folder, more.rows, chosen.giver, more.written), remarks


def with_template(tokenizer: ChildTokenizer, template: str) -> ChildTokenizer:
    """Returns the tokenizer with another chat template, in the one file that has the last word."""
    written = {**tokenizer.written, CHAT_TEMPLATE: template.encode("utf-8", "backslashreplace")}
    config = tokenizer.config
    if config.pop("chat_template", None) is not None:
        written[TOKENIZER_CONFIG] = dump(config)
    return replace(tokenizer, written=written, omitted=tokenizer.omitted | {"chat_template.json"})


def _asked_for(a: Parent, b: Parent, setting: str, follow_links: bool) -> tuple[ChildTokenizer, list[str]]:
    (parent_a, of_a), (parent_b, of_b) = a, b
    named = {"b": parent_b.folder, parent_b.source: parent_b.folder, parent_a.source: parent_a.folder}
    folder = {**named, "a": parent_a.folder}.get(setting)
    if folder is None:
        folder, _ = resolve(setting, weights=False, follow_links=follow_links)
    if folder.samefile(parent_a.folder):
        remarks = [] if has_tokenizer(parent_a.folder) else [_no_tokenizer(parent_a)]
        return ChildTokenizer(parent_a.folder, of_a and of_a.rows, "a"), remarks
    is_b = folder.samefile(parent_b.folder)
    if not has_tokenizer(folder):
        fields = (("tokenizer", setting), ("folder", folder), ("found", "no tokenizer files"))
        fix = "set tokenizer: a, or name a folder with a tokenizer"
        raise Problem(CheckpointError, "no tokenizer there", fields, fix).error()
    tokens = of_b if is_b else read_tokens(folder)
    return ChildTokenizer(folder, tokens and tokens.rows, "b" if is_b else None), []


def _no_tokenizer(parent: Checkpoint) -> str:
    return f"{parent.source} has no tokenizer files, so the child has none"


def _with_the_tokens_of_both(a: Parent, b: Parent, named: Sequence[str]) -> tuple[ChildTokenizer, list[str]]:
    """A parent's tokenizer if it has the tokens of both (a's before b's), else a's with b's as well."""
    (parent_a, of_a), (parent_b, of_b) = a, b
    from_a = ChildTokenizer(parent_a.folder, of_a and of_a.rows, "a")
    from_b = ChildTokenizer(parent_b.folder, of_b and of_b.rows, "b")
    if of_a is None or of_b is None:
        if has_tokenizer(parent_a.folder):
            return from_a, []
        if has_tokenizer(parent_b.folder):
            return from_b, [
                f"{parent_a.source} has no tokenizer files; the child has those of {parent_b.source}"
            ]
        return from_a, [
            f"neither {parent_a.source} nor {parent_b.source} has tokenizer files, so the child has none"
        ]
    missing = [token for token in of_b.rows if token not in of_a.rows]
    more = sorted(missing, key=of_b.rows.__getitem__)
    if not more:
        return from_a, _template_left_behind(parent_a, parent_b, "b")
    if of_a.rows.keys() <= of_b.rows.keys():
        return from_b, _template_left_behind(parent_b, parent_a, "a")
    named = [token for token in named if token not in of_a.rows and token not in of_b.rows]
    union = extend(parent_a.folder, of_a, [*more, *named], parent_b.folder, of_b)
    templates = template_files(parent_b.folder) if chat_template(parent_a.folder) is None else {}
    written = {**union.written, **templates}
    remark = (
        f"the child's tokenizer is that of {parent_a.source} with {len(more)} tokens of {parent_b.source}"
    )
    return ChildTokenizer(parent_a.folder, union.rows, "a", written, union.omitted), [remark]


def _template_left_behind(giver: Checkpoint, other: Checkpoint, label: str) -> list[str]:
    if chat_template(giver.folder) is not None or chat_template(other.folder) is None:
        return []
    return [
        f"only {other.source} has a chat template, and the child has none; tokenizer: {label} takes it along"
    ]
