"""The hashes that detect changed bytes, and the use of each.

- A weight file: `checksum`. On one core of an AMD EPYC with AVX-512, XXH3 hashes 30-80 GB/s, BLAKE3 8-10,
  SHA-256 2. Only XXH3 does not slow a merge down, so it is the default: it detects every accident. The
  others are cryptographic, and so also detect forgery. Command-line tools (`xxh128sum`, `b3sum`,
  `sha256sum`) print the same digests.
- A side file, next to the weights: SHA-256, whose time does not matter there.
- One tensor: XXH3 with 128 bits, which only has to show which tensor deviates.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Protocol

Checksum = Literal["xxh3_128", "blake3", "sha256"]
"""The hash of a whole weight file."""

BESIDE: Checksum = "sha256"
"""The hash of side files."""

TENSOR_HASH = "xxh3_128"
BLOCK_NBYTES = 1 << 20


class Hasher(Protocol):
    """The interface that hashlib's objects share with those of other libraries."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Adds bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in hexadecimal."""
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
    """Returns the digest of bytes."""
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
