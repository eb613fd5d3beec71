"""Small safetensors files and indexes, and how a stranger or a failing disk may damage them."""

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

HUGE = (2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**40, 10**400, -1)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U16", "BOOL", "F8_E4M3", "F4", "C64", "f32", "", "F32 ")
ODD = (None, True, 1.0, "", "8", [], {}, [[]], {"a": 1}, -1, 0, 10**20)
PIECES = (
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
    b" ",
    b"1e9",
    b"NaN",
    b"null",
    b"-",
    b"\\ud800",
    b"\xff",
)
SHARDS = ("../1.safetensors", "/1.safetensors", "", ".", "1.SAFETENSORS", "2.safetensors", "\0", "é" * 300)

Mutation = Callable[[random.Random, bytes], bytes]


def seed_files() -> list[bytes]:
    """Whole files: tensors of several types, a scalar, empty ones, none at all; with and without metadata."""
    arrays = {
        "a": np.arange(6, dtype="float32").reshape(2, 3),
        "b.c": np.arange(4, dtype="int8"),
        "ä": np.float16([1, 2]),
    }
    odd = {"x": np.zeros((0, 3), "float32"), "y": np.array(7, "int64"), "z": np.ones((1, 2, 1), "bool")}
    both = {**arrays, **odd}
    return [save(arrays), save(odd, {"format": "pt"}), save(both), save({}), save({}, {"k": "v"})]


def seed_index() -> dict[str, Any]:
    """An index of `FILES`."""
    return {"metadata": {"total_size": 24}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}


def with_length(header: bytes, data: bytes) -> bytes:
    """A file whose header has the length that it claims."""
    return struct.pack("<Q", len(header)) + header + data


def parts(raw: bytes) -> tuple[bytes, bytes]:
    """Header and data of a whole file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return raw[8:end], raw[end:]


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """A file with one to three changes: of bytes, of the length, of the header's text or of its meaning."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        raw = rng.choice(MUTATIONS)(rng, raw)
    return raw


def of_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Anywhere: a byte changed, or a span inserted, deleted or doubled, or the end cut off or drawn out."""
    start = rng.randrange(len(raw) + 1)
    end = min(len(raw), start + rng.choice((1, 1, 2, 8, 40)))
    span = raw[start:end]
    return rng.choice(
        (
            raw[:start] + bytes(b ^ (1 << rng.randrange(8)) for b in span[:1]) + raw[start + 1 :],
            raw[:start] + rng.randbytes(rng.choice((1, 3, 9))) + raw[start:],
            raw[:start] + raw[end:],
            raw[:end] + span + raw[end:],
            raw[:start],
            raw + bytes(rng.choice((1, 7, 4096))),
        )
    )


def of_length(rng: random.Random, raw: bytes) -> bytes:
    """Another length of the header: somewhat other, or absurd."""
    length = int.from_bytes(raw[:8], "little")
    wrong = rng.choice((length + rng.randrange(-9, 10), 0, 1, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64)))
    return struct.pack("<Q", wrong % 2**64) + raw[8:]


def of_text(rng: random.Random, raw: bytes) -> bytes:
    """The header's text with a number exchanged, or a piece of JSON put in or taken out."""
    header, data = parts(raw)
    numbers = list(re.finditer(rb"\d+", header))
    if numbers and rng.random() < 0.7:
        one, other = rng.choice(numbers), rng.choice(numbers)
        new = other[0] if rng.random() < 0.5 else str(rng.choice((*HUGE, 0, 1, 5))).encode()
        return with_length(header[: one.start()] + new + header[one.end() :], data)
    at = rng.randrange(len(header) + 1)
    piece = rng.choice(PIECES)
    return with_length(header[:at] + piece + header[at + rng.randrange(2) :], data)


def of_structure(rng: random.Random, raw: bytes) -> bytes:
    """The header's JSON with an entry exchanged, doubled, added, removed, nested or described otherwise."""
    header, data = parts(raw)
    try:
        value = json.loads(header)
    except (ValueError, RecursionError):
        return raw
    values = value.values() if isinstance(value, dict) else ()
    entries = [entry for entry in values if isinstance(entry, dict)]
    if not entries:
        return raw
    text = rng.choice((_other_entry, _other_value, _nested, _twice))(rng, value, entries)
    return with_length(text.encode("utf-8", "surrogatepass"), data)


def _other_entry(rng: random.Random, value: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    name = rng.choice(list(value))
    changed = dict(rng.sample(list(value.items()), len(value)))
    entry = changed.pop(name)
    new = rng.choice(("w", "__metadata__", "", "\ud800", "a\nb", "é" * 100, name))
    if rng.random() < 0.7:
        changed[new] = rng.choice((entry, rng.choice(entries)))
    return json.dumps(changed)


def _other_value(rng: random.Random, value: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    entry = rng.choice(entries)
    key = rng.choice([*entry, "dtype", "shape", "data_offsets", "extra"])
    numbers = [rng.choice((0, 1, 2, 4, 8, 24, *HUGE)) for _ in range(rng.randrange(4))]
    kind = rng.choice(entries).get(key)
    entry[key] = rng.choice((kind, numbers, [*numbers, *numbers], rng.choice(DTYPES), rng.choice(ODD)))
    if rng.random() < 0.1:
        del entry[key]
    return json.dumps(value)


def _nested(rng: random.Random, value: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    depth = rng.choice((1, 3, 100, 2000))
    entry = rng.choice(entries)
    entry[rng.choice(["shape", "data_offsets"])] = "DEEP"
    return json.dumps(value).replace('"DEEP"', "[" * depth + "2" + "]" * depth)


def _twice(rng: random.Random, value: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    name = rng.choice(list(value))
    again = json.dumps({name: rng.choice(entries)})[1:-1]
    return json.dumps(value)[:-1] + "," + again + "}"


MUTATIONS: tuple[Mutation, ...] = (of_bytes, of_length, of_text, of_text, of_structure, of_structure)


def mutated_index(rng: random.Random, index: dict[str, Any]) -> bytes:
    """The bytes of an index with one change, of its meaning or of its text."""
    raw = json.dumps(index).encode()
    kind = rng.randrange(4)
    if kind == 0:
        return of_bytes(rng, raw)
    weight_map = dict(index["weight_map"])
    if kind == 1:
        weight_map[rng.choice(["a", "b", "ghost", ""])] = rng.choice((*SHARDS, *ODD))
        return json.dumps({**index, "weight_map": weight_map}).encode()
    if kind == 2:
        return json.dumps({**index, rng.choice(["weight_map", "metadata"]): rng.choice(ODD)}).encode()
    return raw[:-2] + b',"a":"' + rng.choice((b"1", b"2")) + b'.safetensors"}}'
