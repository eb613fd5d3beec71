"""The threads of a merge, what they share, and how results reach the sink.

Worker threads read, measure and combine; at most `memory.threads` of them compute at once, and the others
read meanwhile. Writer threads wait for the sink.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Semaphore
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from fusion_slerp.chunks import PAGE_NBYTES
from fusion_slerp.engine.buffers import Buffer, BufferPool
from fusion_slerp.engine.output_digests import OutputDigests
from fusion_slerp.planning.layout import Position, Slot
from fusion_slerp.planning.memory import WRITERS, MemoryPlan
from fusion_slerp.sources.open_files import OpenFiles

P = ParamSpec("P")
R = TypeVar("R")

BEFORE_ALL: Position = (-1, 0)


class Sink(Protocol):
    """Where the merged model's bytes go."""

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Takes bytes for an offset of a shard's data section, in any order, from any thread."""

    def finish(self, shard: int) -> None:
        """Is told, from any thread, that a shard has all its bytes."""


@dataclass(frozen=True, slots=True)
class Result:
    """Bytes of the merged model, ready to be written.

    Attributes:
        shard: Index of their file.
        offset: Bytes from the start of its data section.
        buffer: Where they are; to be given back after writing.
        data: The part of the buffer that counts. It lies in its memory page as it will in the
            file's, so that whole pages can go to the disk from where they are.
    """

    shard: int
    offset: int
    buffer: Buffer
    data: np.ndarray


class Threads:
    """The threads and their buffers; use as a context manager, which ends them.

    Args:
        memory: How many, and how large their buffers are.
        files: The models' files, open.
        sink: Where results go; None where nothing is written.
        digests: Takes all bytes that are written; None skips them.
    """

    def __init__(
        self,
        memory: MemoryPlan,
        files: OpenFiles,
        sink: Sink | None = None,
        digests: OutputDigests | None = None,
    ) -> None:
        self.files, self.memory = files, memory
        self.ins = BufferPool(memory.in_nbytes, memory.n_ins)
        self._outs = BufferPool(memory.out_nbytes, memory.n_outs)
        self.computing = Semaphore(memory.threads)
        self._sink, self._digests = sink, digests
        self._workers = ThreadPoolExecutor(memory.workers, "fusion_slerp worker")
        self.writers = ThreadPoolExecutor(WRITERS, "fusion_slerp writer")

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort(BEFORE_ALL)
        self._workers.shutdown(wait=True, cancel_futures=kind is not None)
        self.writers.shutdown(wait=True)

    def submit(
        self, position: Position, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Hands a task to the workers; if it fails, nobody waits for the bytes at a position any longer."""

        def run() -> R:
            try:
                return task(*args, **kwargs)
            except BaseException:
                self.abort(position)
                raise

        return self._workers.submit(run)

    def abort(self, position: Position) -> None:
        """Releases the threads that wait for the bytes at a position, which will not come."""
        if self._digests:
            self._digests.abort(position)

    @contextmanager
    def in_buffer(self) -> Iterator[Buffer]:
        """A buffer for a chunk of every source, for a while."""
        buffer = self.ins.take()
        try:
            yield buffer
        finally:
            self.ins.give(buffer)

    @contextmanager
    def result(self, slot: Slot, start: int, nbytes: int) -> Iterator[Result]:
        """A result whose bytes begin `start` bytes after a tensor's first; given back if its making fails."""
        offset = slot.offset + start
        buffer = self._outs.take()
        in_page = offset % PAGE_NBYTES
        try:
            yield Result(slot.shard, offset, buffer, buffer[in_page : in_page + nbytes])
        except BaseException:
            self._outs.give(buffer)
            raise

    def write(self, result: Result) -> Future[int]:
        """Hands a result to the digests and to a writer; its number of bytes is promised.

        The buffer is given back when both are done with it.
        """
        pending = _Pending(result, self._outs.give, 2 if self._digests else 1)
        self.writers.submit(self._write, pending)
        if self._digests:
            self._digests.add(result.shard, result.offset, result.data, pending.done)
        return pending.promise

    def _write(self, pending: _Pending) -> None:
        assert self._sink is not None, "nothing is to be written"
        result, error = pending.result, None
        try:
            self._sink.write(result.shard, result.offset, result.data.data)
        except BaseException as failure:
            error = failure
        pending.done(error)


class _Pending:
    """A result that several still use.

    Args:
        result: The result.
        give: Takes its buffer back.
        n_users: How many call `done`.
    """

    def __init__(self, result: Result, give: Callable[[Buffer], None], n_users: int) -> None:
        self.result, self.promise = result, Future[int]()
        self._give, self._n_users = give, n_users
        self._error: BaseException | None = None
        self._counting = threading.Lock()

    def done(self, error: BaseException | None) -> None:
        """One of them needs it no longer; the last one gives the buffer back and keeps the promise."""
        with self._counting:
            self._n_users -= 1
            self._error = self._error or error
            is_last = not self._n_users
        if not is_last:
            return
        self._give(self.result.buffer)
        if self._error is None:
            self.promise.set_result(self.result.data.nbytes)
        else:
            self.promise.set_exception(self._error)
