"""Numbers of bytes as users write them."""

from __future__ import annotations

import re

from fusion_slerp.options import Check

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_nbytes(size: object) -> int | None:
    """Returns bytes from a positive int or a text like `"5GB"` (decimal) or `"5GiB"`; else None."""
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
    """Whether a value is a number of bytes."""
    return parse_nbytes(value) is not None


SIZE = Check(is_size, "a size such as 5GB")
