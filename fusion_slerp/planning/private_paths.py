"""Paths of the user's machine in configs: a merged model is made to be published.

Transformers 4 noted where a model and the files of its tokenizer were loaded from. No reader needs that:
transformers sets these values when it loads. Other values may be needed, such as the path of a vision tower:
they are kept, and named in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusion_slerp.sources.formats import NAMED
from fusion_slerp.sources.json_files import SMALL, parse_json
from fusion_slerp.sources.regular_files import read_regular
from fusion_slerp.vocabulary.tokens import dump

SideFile = Path | bytes
"""The file to copy, or the content."""

NAMES = frozenset({"_name_or_path", "name_or_path", "special_tokens_map_file", NAMED})
"""Keys of a path or hub id that no reader needs; the last names the weights of the source model."""

FILES = re.compile(r"(?:tokenizer|tokenizer_config|vocab|merges|added_tokens|chat_template)_file")
"""Keys of a tokenizer's file: removed if they have a path, because the file is next to the config."""

MARKS = re.compile(rb'name_or_path|_file"|' + NAMED.encode() + rb'|"(?:\\?/|~|[A-Za-z]:|\\\\|file:)')
"""Precedes or is part of everything that is looked for."""

LOCAL = re.compile(r"(?:(?:/[^/\n{}<>|]+){2,}/?|~[\w.-]*/.*|[A-Za-z]:[\\/].*|\\\\\w.*|file:/.*)")
"""A path that leads to the same file from every folder; one of a single name, such as /think, is none."""

MAX_PATH = 4096
"""Characters: no operating system takes a longer path."""


def without_paths(file: SideFile) -> SideFile:
    """Returns a config without the keys of `NAMES`; unchanged if it has none, or is too large or not JSON.

    Raises:
        OSError: The file cannot be read.
    """
    content = _content(file)
    kept = _without_names(content)
    return file if kept == content else dump(kept)


def remaining_paths(file: SideFile) -> list[str]:
    """Returns the keys of a config under which paths remain in its copy, each with the keys around it.

    Raises:
        OSError: The file cannot be read.
    """
    return list(_paths(_without_names(_content(file))))


def _content(file: SideFile) -> Any:
    """The content of a config; None if it certainly has no paths, is too large or is not JSON."""
    try:
        raw = file if isinstance(file, bytes) else read_regular(file, SMALL.nbytes)
        return parse_json(raw, SMALL) if MARKS.search(raw) else None
    except ValueError:
        return None


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_names(each) for key, each in value.items() if not _is_removed(key, each)}
    return [_without_names(each) for each in value] if isinstance(value, list) else value


def _is_removed(key: str, value: object) -> bool:
    has_path = isinstance(value, str) and ("/" in value or "\\" in value)
    return key in NAMES or (has_path and bool(FILES.fullmatch(key)))


def _paths(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, str) and len(value) <= MAX_PATH and LOCAL.fullmatch(value):
        yield path
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _paths(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _paths(each, f"{path}.{i}")
