"""Digests of the merged model's files and tensors, computed while their bytes are in memory: no extra pass.

A file's digest covers its bytes from first to last, so it equals the output of the standard tools
(`b3sum FILE`, `sha256sum FILE`). Results come from several threads, not quite in order. Early results are
kept until those before them in the file have been added; the thread that adds these adds them as well.

At most `most_early` results are kept, so that each worker still gets a buffer for its result; with more,
workers wait. No worker waits for long, or forever: workers take their tasks in the order of the files, and
when a task fails, `abort` releases those that come after it. Those before it continue, so that of several
failures, the first in order is reported.

Source: BLAKE3, https://github.com/BLAKE3-team/BLAKE3-specs; XXH3, https://xxhash.com. A tensor's XXH3 only
has to show which tensor of a file deviates, and costs a fraction of the file's BLAKE3.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from fusion_slerp.engine.aborting import AbortedError
from fusion_slerp.hashes import Checksum, Hasher, file_hasher, tensor_hasher
from fusion_slerp.planning.layout import Position, Shard, Slot
from fusion_slerp.planning.memory import WAITING_RESULTS, WRITERS

EARLY_RESULTS = WRITERS * (1 + WAITING_RESULTS)
"""All buffers for results except one per worker; see `MemoryPlan.n_outs`."""

Added = Callable[[BaseException | None], object]
"""Called when bytes have been added to the digest, or with the error because of which they never will be."""


class OutputDigests:
    """The digests of unfinished files; every method may be called from any thread.

    Args:
        slots: Every tensor of the merged model, file by file in the order of their offsets.
        shards: The merged model's weight files.
        checksum: The hash of whole files.
        most_early: Number of early results that may be kept.
        n_files: Files of one merged model, if there are several in turn: their tensors are made together, so
            that their files have the same place in the order. None for all files.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        shards: Sequence[Shard],
        checksum: Checksum,
        most_early: int = EARLY_RESULTS,
        n_files: int | None = None,
    ) -> None:
        by_shard: list[list[Slot]] = [[] for _ in shards]
        for slot in slots:
            by_shard[slot.shard].append(slot)
        self._files = [_FileDigests(*each, checksum) for each in zip(shards, by_shard, strict=True)]
        self._n_files = len(shards) if n_files is None else n_files
        self._turn = threading.Condition()
        self._missing: Position | None = None
        self._early: dict[Position, tuple[np.ndarray, Added]] = {}
        self._most_early = most_early

    def add(self, shard: int, offset: int, data: np.ndarray, added: Added) -> None:
        """Adds the bytes at an offset of a file's data section.

        Args:
            shard: Index of the file.
            offset: Bytes from the start of its data section.
            data: The bytes; must not change until `added` is called.
            added: Called once, with None when the bytes are in the digest, or with an error if they never
                will be, from this thread or another.
        """
        if not data.nbytes:  # the bytes that follow have the same offset
            added(None)
            return
        file = self._files[shard]
        with self._turn:
            self._turn.wait_for(
                lambda: (
                    self._comes_later(shard, offset)
                    or file.position == offset
                    or len(self._early) < self._most_early
                )
            )
            comes_later = self._comes_later(shard, offset)
            if not comes_later and file.position != offset:
                self._early[shard, offset] = data, added
                return
        if comes_later:
            added(AbortedError())
            return
        following: tuple[np.ndarray, Added] | None = (data, added)
        while following is not None:
            data, added = following
            file.add(data)
            added(None)
            with self._turn:
                file.position += data.nbytes
                following = self._early.pop((shard, file.position), None)
                self._turn.notify_all()

    def abort(self, position: Position) -> None:
        """Releases all threads that wait for the bytes at a position, which will never come."""
        with self._turn:
            place = self._place(*position)
            self._missing = min(self._missing or place, place)
            later = [self._early.pop(each) for each in list(self._early) if self._comes_later(*each)]
            self._turn.notify_all()
        for _, added in later:
            added(AbortedError())

    def _comes_later(self, shard: int, offset: int) -> bool:
        return self._missing is not None and self._missing < self._place(shard, offset)

    def _place(self, shard: int, offset: int) -> Position:
        """A position in the order in which the tensors are made; `BEFORE_ALL` stays before all."""
        return (shard % self._n_files if shard > 0 else shard), offset

    def file(self, shard: int) -> str:
        """The digest of a whole file whose bytes have all been added."""
        return self._files[shard].whole.hexdigest()

    def tensors(self, shard: int) -> dict[str, str]:
        """The digests of a file's tensors, by name; all of its bytes have been added."""
        return self._files[shard].finished()


class _FileDigests:
    """The digests of one file; the caller adds its bytes in order."""

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
