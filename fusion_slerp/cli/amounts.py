"""Amounts and paths for people to read."""

from __future__ import annotations

from pathlib import Path

from fusion_slerp.errors import printable
from fusion_slerp.settings.sizes import nbytes_text as nbytes_text
from fusion_slerp.settings.sizes import scaled


def count_text(count: float) -> str:
    """Returns a count, such as `1.9 million`."""
    return scaled(count, ("", "thousand", "million", "billion", "trillion")).rstrip()


def seconds_text(seconds: float) -> str:
    """Returns a duration, such as `under a second`, `12 s` or `3 min`."""
    if seconds < 1:
        return "under a second"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def path_text(path: Path) -> str:
    """Returns a path to be read: as `relative`, with escapes for what does not print."""
    return printable(relative(path))


def relative(path: Path) -> str:
    """Returns a path, relative to the working folder if it is inside."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return str(path)
    return str(path.relative_to(here)) if here in path.parents else str(path)
