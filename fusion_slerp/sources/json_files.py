"""The one reader of JSON from a checkpoint: whatever the file holds, reading it is cheap.

Checkpoints come from strangers. The size is checked before the file is read, the number of values
before they are made, and the depth before any recursive code sees them. Python's own parser does
the rest: it refuses what is not UTF-8 or not JSON, and numbers of thousands of digits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp.errors import quoted
from fusion_slerp.sources.regular_files import check_size, read_regular

MARKS = b"{[:,"
"""One of them precedes every value but the first; those inside strings are counted as well."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits for one kind of file.

    Attributes:
        nbytes: Size in bytes. Text takes up to four times as much in memory if it is not ASCII.
        n_marks: Opening brackets, colons and commas: at most as many values, of up to 140 bytes each.
        n_objects: Opening braces among these: an object takes more than any other value.
        depth: Levels of nested lists and objects.
    """

    nbytes: int
    n_marks: int
    n_objects: int
    depth: int


SMALL = Limits(10_000_000, 500_000, 200_000, 50)
"""A config, and the files next to a tokenizer: the largest known ones have 2 MB."""

INDEX = Limits(24_000_000, 600_000, 1000, 10)
"""An index: enough for 300,000 tensors, twice as many as the largest known models have."""

TOKENIZER = Limits(50_000_000, 3_000_000, 500_000, 50)
"""A tokenizer.json: the largest known ones have 35 MB, and 2.1 million marks for 262,000 tokens."""


def read_json(file: Path, limits: Limits, strict: bool = False) -> Any:
    """Returns the content of a JSON file.

    Args:
        file: The file.
        limits: For its kind.
        strict: Whether to refuse a key that occurs twice in an object (otherwise the last one counts),
            and -0, which other readers do not accept as a whole number.

    Raises:
        OSError: There is no such file, it cannot be read, or it is not a regular file.
        ValueError: It exceeds the limits, or is not JSON; the message gives the reason in one line.
    """
    return parse_json(read_regular(file, limits.nbytes), limits, strict)


def parse_json(raw: bytes, limits: Limits, strict: bool = False) -> Any:
    """Returns the value of a JSON text, as `read_json` does for a file.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
        ValueError: As `read_json`.
    """
    check_size(len(raw), limits.nbytes)
    n_objects, n_marks = raw.count(b"{"), sum(raw.count(mark) for mark in MARKS)
    if n_objects > limits.n_objects:
        raise ValueError(f"about {n_objects} objects; {limits.n_objects} is the limit")
    if n_marks > limits.n_marks:
        raise ValueError(f"about {n_marks} values; {limits.n_marks} is the limit")
    n_colons = raw.count(b":")
    parse_int = _without_minus_zero if strict and b"-0" in raw else None
    text = raw.decode("utf-8")
    del raw  # a long text of four bytes per character is already in memory twice
    try:
        value = json.loads(text, parse_int=parse_int)
        n_keys = _n_keys(value, limits.depth)
        if strict and n_keys < n_colons:  # a key occurs twice, or strings contain colons
            value = json.loads(text, object_pairs_hook=_without_duplicates, parse_int=parse_int)
    except RecursionError:
        raise ValueError(f"values nested more than {limits.depth} deep") from None
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{quoted(twice)} occurs twice in one object")
    return result


def _without_minus_zero(digits: str) -> int:
    if digits == "-0":
        raise ValueError("-0 is not a whole number")
    return int(digits)


def _n_keys(value: object, depth: int) -> int:
    """The number of keys of all objects; raises RecursionError if values are nested deeper.

    It goes level by level, because a recursion would raise that error at a depth of its own.
    """
    level = [value] if isinstance(value, (dict, list)) else []
    n_keys = 0
    for _ in range(depth + 1):
        objects = [outer for outer in level if type(outer) is dict]
        n_keys += sum(map(len, objects))
        parts = (outer.values() if type(outer) is dict else outer for outer in level)
        level = [inner for part in parts for inner in part if type(inner) is dict or type(inner) is list]
        if not level:
            return n_keys
    raise RecursionError
