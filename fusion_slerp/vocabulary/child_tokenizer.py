"""The merged model's tokenizer: the files of one folder, byte for byte, or with some of them rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fusion_slerp.vocabulary.chat_templates import (
    CHAT_TEMPLATE,
    MORE_TEMPLATES,
    OF_PROCESSORS,
    Templates,
    chat_templates,
)
from fusion_slerp.vocabulary.tokens import TOKENIZER_CONFIG, Tokens, Vocabulary, dump, read_config

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
    OF_PROCESSORS,
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
"""Files that decide on a token's row, in supported formats and in others."""


@dataclass(frozen=True, slots=True)
class ChildTokenizer:
    """The source of the merged model's tokenizer.

    Attributes:
        folder: Provides the files.
        rows: The row of every token; None if they cannot be read.
        giver: Label of the model whose folder it is and whose special tokens go with it; None if it is no
            model's.
        own: The tokens of the folder's tokenizer, before others are added; None if they cannot be read.
        written: Files that are rewritten, by name; empty if one folder's files are copied unchanged.
        omitted: Files of the folder that are not copied.
    """

    folder: Path
    rows: Vocabulary | None = field(repr=False)
    giver: str | None
    own: Tokens | None = field(default=None, repr=False)
    written: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    omitted: frozenset[str] = frozenset()

    @property
    def files(self) -> dict[str, Path | bytes]:
        """The merged model's tokenizer files, by name: a path to copy, or the content."""
        files = tokenizer_files(self.folder)
        return {**{name: path for name, path in files.items() if name not in self.omitted}, **self.written}

    @property
    def config(self) -> dict[str, Any]:
        """Its tokenizer_config.json; empty if it has no readable one."""
        return read_config(self.folder, self.written.get(TOKENIZER_CONFIG))

    @property
    def chat_templates(self) -> Templates:
        """The merged model's chat templates, by name."""
        return chat_templates(self.folder, self.written)

    @property
    def chat_template(self) -> str | None:
        """The texts of the merged model's chat templates, joined; None if it has none."""
        return "\n".join(self.chat_templates.values()) or None


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Returns a folder's tokenizer and chat template files, by their path in it."""
    return matching_files(folder, TOKENIZER_FILES)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer; a chat template or a tokenizer_config.json alone does not count."""
    return bool(matching_files(folder, VOCABULARY_FILES))


def matching_files(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Returns the files of a model folder whose path within it matches a pattern."""
    inside = [*folder.glob("*"), *folder.glob(f"{MORE_TEMPLATES}*")]
    named = {path.relative_to(folder).as_posix(): path for path in inside if path.is_file()}
    return {
        name: path for name, path in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def with_template(tokenizer: ChildTokenizer, template: str) -> ChildTokenizer:
    """Returns the tokenizer with another chat template, in the file that takes precedence."""
    written = {**tokenizer.written, CHAT_TEMPLATE: template.encode("utf-8", "backslashreplace")}
    config = tokenizer.config
    if config.pop("chat_template", None) is not None:
        written[TOKENIZER_CONFIG] = dump(config)
    return replace(tokenizer, written=written, omitted=tokenizer.omitted | {OF_PROCESSORS})
