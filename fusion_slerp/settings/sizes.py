"""Numbers of bytes as users write them."""

from __future__ import annotations

import re

from fusion_slerp.options import Check

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_nbytes(size: object) -> int | None:
    """Returns the bytes stated by a positive int or a string such as `"5GB"` or `"5GiB"`; None for others."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size if size > 0 else None
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        return None
    unit = match[2].upper().removesuffix("B")
    base = 1024 if unit.endswith("I") else 1000
    nbytes = int(float(match[1]) * base ** _UNITS[unit.removesuffix("I")])
    return nbytes if nbytes > 0 else None


def is_size(value: object) -> bool:
    """Whether a value states a number of bytes."""
    return parse_nbytes(value) is not None


def nbytes_text(nbytes: float) -> str:
    """Returns bytes as people read them, in decimal units: `3.8 MB`."""
    return scaled(nbytes, ("B", "kB", "MB", "GB", "TB"))


def scaled(value: float, units: tuple[str, ...]) -> str:
    """Returns a number in the unit, each a thousand times the one before, that leaves it below 1000."""
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = 1 if power and value < 99.95 else 0
    return f"{value:.{digits}f} {units[power]}"


SIZE = Check(is_size, "a size such as 5GB")
