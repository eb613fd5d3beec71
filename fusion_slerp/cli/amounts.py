"""Numbers as people read them."""

from __future__ import annotations

from pathlib import Path


def nbytes_text(nbytes: float) -> str:
    """Bytes in decimal units: `3.8 MB`."""
    return _scaled(nbytes, ("B", "kB", "MB", "GB", "TB"))


def count_text(count: float) -> str:
    """A count: `1.9 million`."""
    return _scaled(count, ("", "thousand", "million", "billion", "trillion")).rstrip()


def seconds_text(seconds: float) -> str:
    """A duration: `under a second`, `12 s`, `3 min`."""
    if seconds < 1:
        return "under a second"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def path_text(path: Path) -> str:
    """A path, from the working folder if it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)


def _scaled(value: float, units: tuple[str, ...]) -> str:
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = 1 if power and value < 99.95 else 0
    return f"{value:.{digits}f} {units[power]}"
