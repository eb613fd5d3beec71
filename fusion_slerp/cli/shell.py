"""Command lines that work when they are pasted into a shell, whatever the names in them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from fusion_slerp.cli.amounts import relative
from fusion_slerp.errors import not_an_option


def shell_line(words: Iterable[str]) -> str:
    """Returns words as one line for a POSIX shell; names that do not print are written with escapes."""
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def folder_word(folder: Path) -> str:
    """Returns an existing folder as an argument, relative to the working folder if it is inside."""
    word = relative(folder)
    return str(folder) if word.startswith("~") else not_an_option(word)


def _escaped(word: str) -> str:
    """The word in bash's and zsh's `$'...'`, byte by byte where a character does not print."""
    parts = (c if c.isprintable() else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in word)
    return "$'" + "".join(f"\\{part}" if part in ("\\", "'") else part for part in parts) + "'"
