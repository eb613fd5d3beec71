"""The merged model's tokenizer: the files of one folder, byte for byte, or with some of them rewritten."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fusion_slerp.sources.links import TEMPLATES
from fusion_slerp.sources.regular_files import read_regular
from fusion_slerp.vocabulary.tokens import TOKENIZER_CONFIG, Vocabulary, dump, load, read_config

CHAT_TEMPLATE = "chat_template.jinja"
MORE_TEMPLATES = f"{TEMPLATES}/"

MAX_TEMPLATE_NBYTES = 1_000_000
"""A larger chat template is ignored: the largest known ones have about 20 KB."""

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
"""Files that decide on a token's row, in supported formats and in others."""


@dataclass(frozen=True, slots=True)
class ChildTokenizer:
    """The source of the merged model's tokenizer.

    Attributes:
        folder: Provides the files.
        rows: The row of every token; None if they cannot be read.
        giver: Label of the model whose folder it is and whose special tokens go with it; None if it is no
            model's.
        written: Files that are rewritten, by name; empty if one folder's files are copied unchanged.
        omitted: Files of the folder that are not copied.
    """

    folder: Path
    rows: Vocabulary | None = field(repr=False)
    giver: str | None
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
    def chat_template(self) -> str | None:
        """The merged model's chat template; None if it has none."""
        written = self.written.get(CHAT_TEMPLATE)
        return written.decode("utf-8", "replace") if written else chat_template(self.folder)


def chat_template(folder: Path) -> str | None:
    """Returns the chat template next to a tokenizer; None if there is none."""
    try:
        if (folder / CHAT_TEMPLATE).is_file():
            return read_regular(folder / CHAT_TEMPLATE, MAX_TEMPLATE_NBYTES).decode("utf-8")
        template = read_config(folder).get("chat_template")
        if template is None and (folder / "chat_template.json").is_file():
            template = load(folder / "chat_template.json")["chat_template"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    return template if template is None or isinstance(template, str) else json.dumps(template)


def template_files(folder: Path) -> dict[str, bytes]:
    """Returns the chat templates of a folder as files, including those in its tokenizer_config.json."""
    patterns = (CHAT_TEMPLATE, "chat_template.json", f"{MORE_TEMPLATES}*.jinja")
    small = {
        n: p for n, p in matching_files(folder, patterns).items() if p.stat().st_size <= MAX_TEMPLATE_NBYTES
    }
    files = {name: read_regular(path, MAX_TEMPLATE_NBYTES) for name, path in small.items()}
    given = read_config(folder).get("chat_template")
    entries = given if isinstance(given, list) else [{"name": "default", "template": given}]
    for entry in entries:
        name, jinja = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("name", "template"))
        if isinstance(name, str) and isinstance(jinja, str) and re.fullmatch(r"[\w-]{1,60}", name):
            file = CHAT_TEMPLATE if name == "default" else f"{MORE_TEMPLATES}{name}.jinja"
            files.setdefault(file, jinja.encode("utf-8", "replace"))
    return files


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
    return replace(tokenizer, written=written, omitted=tokenizer.omitted | {"chat_template.json"})
