"""The hashes that say whether bytes are still what they were, and which one is for what.

- A weight file: `checksum`. On one core here (AMD EPYC with AVX-512) XXH3 takes 30-80 GB/s, BLAKE3 8-10,
  SHA-256 2. Only the first leaves a merge as fast as it was, so it is the default: it finds every accident.
  The others are cryptographic, and so a defence against somebody who wants to deceive. Command-line tools
  (`xxh128sum`, `b3sum`, `sha256sum`) print the same.
- A file beside the weights: SHA-256, which takes no time there.
- One tensor: XXH3 with 128 bits. It only has to say which one deviates.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Protocol

Checksum = Literal["xxh3_128", "blake3", "sha256"]
"""The hash of a whole file."""

BESIDE: Checksum = "sha256"
"""That of files beside the weights."""

TENSOR_HASH = "xxh3_128"
BLOCK_NBYTES = 1 << 20


class Hasher(Protocol):
    """What hashlib's objects have in common with those of other libraries."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Takes more bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in hexadecimal digits."""
        ...


def file_hasher(checksum: Checksum) -> Hasher:
    """Returns a new hasher for a whole file."""
    if checksum == "sha256":
        return hashlib.sha256()
    if checksum == TENSOR_HASH:
        return tensor_hasher()
    from blake3 import blake3

    return blake3()


def tensor_hasher() -> Hasher:
    """Returns a new hasher for one tensor."""
    from xxhash import xxh3_128

    return xxh3_128()


def digest_of(content: bytes, checksum: Checksum) -> str:
    """Returns the digest of some bytes."""
    hasher = file_hasher(checksum)
    hasher.update(content)
    return hasher.hexdigest()


def file_digest(file: Path, checksum: Checksum) -> str:
    """Returns the digest of a file; reads it once, a block at a time.

    Raises:
        OSError: It cannot be read.
    """
    hasher, buffer = file_hasher(checksum), memoryview(bytearray(BLOCK_NBYTES))
    with file.open("rb", buffering=0) as stream:
        while n := stream.readinto(buffer):
            hasher.update(buffer[:n])
    return hasher.hexdigest()
