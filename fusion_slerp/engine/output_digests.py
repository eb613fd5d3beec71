"""Digests of the child's files and tensors, taken while their bytes are at hand: no extra pass.

A file's digest runs over its bytes from first to last, so it is what any tool of that name prints
(`b3sum FILE`, `sha256sum FILE`). Results come from several threads; each waits until those that lie
before it in the file are in the digest. Nobody waits for long, or for ever: workers take their tasks in
the order of the files, and when a task fails, `abort` releases those that come after it. Those before it
continue, so whichever task fails first in time, the first in order is the one that is reported.

Source: BLAKE3, https://github.com/BLAKE3-team/BLAKE3-specs; XXH3, https://xxhash.com. A tensor's XXH3 only
has to say which tensor of a file deviates, and costs a fraction of the file's BLAKE3.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from fusion_slerp.hashes import Checksum, Hasher, file_hasher, tensor_hasher
from fusion_slerp.planning.layout import Position, Shard, Slot


class AbortedError(Exception):
    """What comes before in the file failed; its error is the one that counts."""


class OutputDigests:
    """The digests of files under way; every method may be called from any thread.

    Args:
        slots: Every tensor of the child, file by file in the order of their offsets.
        shards: The child's weight files.
        checksum: The hash of whole files.
    """

    def __init__(self, slots: Sequence[Slot], shards: Sequence[Shard], checksum: Checksum) -> None:
        by_shard: list[list[Slot]] = [[] for _ in shards]
        for slot in slots:
            by_shard[slot.shard].append(slot)
        self._files = [_FileDigests(*each, checksum) for each in zip(shards, by_shard, strict=True)]
        self._turn = threading.Condition()
        self._missing: Position | None = None

    def add(self, shard: int, offset: int, data: np.ndarray) -> None:
        """Takes the bytes at an offset of a file's data section, once all before them are in.

        Raises:
            AbortedError: They never will be.
        """
        file = self._files[shard]
        with self._turn:
            self._turn.wait_for(lambda: self._is_behind(shard, offset) or file.position == offset)
            if self._is_behind(shard, offset):
                raise AbortedError
        file.add(data)
        with self._turn:
            file.position += data.nbytes
            self._turn.notify_all()

    def abort(self, position: Position) -> None:
        """Lets nobody wait any longer for the bytes at a position, which will never come."""
        with self._turn:
            self._missing = min(self._missing or position, position)
            self._turn.notify_all()

    def _is_behind(self, shard: int, offset: int) -> bool:
        return self._missing is not None and self._missing < (shard, offset)

    def file(self, shard: int) -> str:
        """The digest of a whole file whose bytes are all in."""
        return self._files[shard].whole.hexdigest()

    def tensors(self, shard: int) -> dict[str, str]:
        """The digests of a file's tensors, by name; the bytes of all of them are in."""
        return self._files[shard].finished()


class _FileDigests:
    """The digests of one file; the caller sees to the order."""

    def __init__(self, shard: Shard, slots: Sequence[Slot], checksum: Checksum) -> None:
        self.position = 0
        self.whole = file_hasher(checksum)
        self.whole.update(shard.header)
        self._slots = slots
        self._tensors: dict[str, str] = {}
        self._hasher: Hasher = tensor_hasher()
        self._next = 0

    def add(self, data: np.ndarray) -> None:
        view = data.data
        self.whole.update(view)
        position = self.position
        while view.nbytes:
            self._close_up_to(position)
            slot = self._slots[self._next]
            part = view[: slot.offset + slot.nbytes - position]
            self._hasher.update(part)
            view, position = view[part.nbytes :], position + part.nbytes

    def _close_up_to(self, position: int) -> None:
        """Finishes the tensors that end at or before a position, empty ones included."""
        while self._next < len(self._slots) and _end(self._slots[self._next]) <= position:
            self._tensors[self._slots[self._next].name] = self._hasher.hexdigest()
            self._hasher = tensor_hasher()
            self._next += 1

    def finished(self) -> dict[str, str]:
        self._close_up_to(self.position)
        assert self._next == len(self._slots), "bytes are missing"
        return self._tensors


def _end(slot: Slot) -> int:
    return slot.offset + slot.nbytes
