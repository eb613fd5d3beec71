"""The tokens of a SentencePiece model file, read as data.

Source: sentencepiece_model.proto (https://github.com/google/sentencepiece/blob/master/src/
sentencepiece_model.proto): a ModelProto repeats field 1, a SentencePiece, whose field 1 is the
token; a token's row is its position. The wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

MAX_FIELDS = 1_300_000
"""Enough for 600,000 tokens: each is a field, and one of its own fields is read. They take a second."""

LENGTH_DELIMITED = 2
FIXED_NBYTES = {1: 8, 5: 4}
"""Wire types of fixed length."""


def read_pieces(data: bytes) -> list[str]:
    """Returns the tokens in the order of their rows.

    Raises:
        ValueError: The bytes are not such a message.
    """
    pieces, n_left = [], count(MAX_FIELDS, -1)
    for field, content in _fields(data, n_left):
        if field == 1:
            token = next((value for number, value in _fields(content, n_left) if number == 1), b"")
            pieces.append(token.decode("utf-8"))
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces


def _fields(data: bytes, n_left: Iterator[int]) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message, by number; others are skipped.

    Args:
        data: The message.
        n_left: Counts down the fields of all messages together.
    """
    position = 0
    while position < len(data):
        if not next(n_left):
            raise ValueError(f"more than {MAX_FIELDS} fields")
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == LENGTH_DELIMITED:
            length, position = _varint(data, position)
        elif wire_type == 0:
            _, position = _varint(data, position)
            continue
        elif wire_type in FIXED_NBYTES:
            length = FIXED_NBYTES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        end = position + length
        if end > len(data):
            raise ValueError(f"a field of {length} bytes at byte {position} ends beyond the file")
        if wire_type == LENGTH_DELIMITED:
            yield number, data[position:end]
        position = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, the lowest first; and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError(f"no number ends at byte {position}")
