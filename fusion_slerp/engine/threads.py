"""The threads of a merge, their shared buffers and files, and the path of results to the sink.

Worker threads read, measure and combine; at most `memory.threads` of them compute at once, while the others
read. Writer threads wait for the sink.
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
from fusion_slerp.interruption import deferred_signals
from fusion_slerp.planning.layout import Position, Slot
from fusion_slerp.planning.memory import WRITERS, MemoryPlan
from fusion_slerp.sources.open_files import OpenFiles

P = ParamSpec("P")
R = TypeVar("R")

BEFORE_ALL: Position = (-1, 0)


class Sink(Protocol):
    """The destination of the merged model's bytes."""

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Writes bytes at an offset of a shard's data section, in any order, from any thread."""

    def finish(self, shard: int) -> None:
        """Called from any thread when a shard has all its bytes."""


@dataclass(frozen=True, slots=True)
class Result:
    """Bytes of the merged model, ready to be written.

    Attributes:
        shard: Index of their file.
        offset: Bytes from the start of its data section.
        buffer: The buffer that holds them; returned to the pool after writing.
        data: The used part of the buffer. Its offset within a memory page equals that within a page of
            the file, so that whole pages can be written without copying.
    """

    shard: int
    offset: int
    buffer: Buffer
    data: np.ndarray


class Threads:
    """The threads and their buffers; a context manager that ends the threads.

    Args:
        memory: The number of threads, and the number and size of their buffers.
        files: The models' open files.
        sink: The destination of results; None if nothing is written.
        digests: Computes the digests of everything that is written; None for no digests.
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
        self._signals = deferred_signals()

    def __enter__(self) -> Threads:
        self._signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self._end()
            self._workers.shutdown(wait=True)
            self.writers.shutdown(wait=True)
        finally:
            self._signals.__exit__(None, None, None)

    def _end(self) -> None:
        """Lets all tasks end soon, those included that have not begun.

        Each is begun, so that it releases those that wait for it. None gets a new buffer: it might wait for
        one that was kept for a task which will never be submitted.
        """
        self.abort(BEFORE_ALL)
        self.ins.close()
        self._outs.close()

    def submit(
        self, position: Position, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Submits a task to the workers; if it fails, threads that wait for its bytes are released."""

        def run() -> R:
            try:
                return task(*args, **kwargs)
            except BaseException:
                self.abort(position)
                raise

        return self._workers.submit(run)

    def abort(self, position: Position) -> None:
        """Releases the threads that wait for the bytes at a position, which will never come."""
        if self._digests:
            self._digests.abort(position)

    @contextmanager
    def in_buffer(self) -> Iterator[Buffer]:
        """Lends a buffer for a chunk of every source."""
        buffer = self.ins.take()
        try:
            yield buffer
        finally:
            self.ins.give(buffer)

    @contextmanager
    def result(self, slot: Slot, start: int, nbytes: int) -> Iterator[Result]:
        """Lends a result that begins `start` bytes into a tensor; its buffer is returned after a failure."""
        offset = slot.offset + start
        buffer = self._outs.take()
        in_page = offset % PAGE_NBYTES
        try:
            yield Result(slot.shard, offset, buffer, buffer[in_page : in_page + nbytes])
        except BaseException:
            self._outs.give(buffer)
            raise

    def write(self, result: Result) -> Future[int]:
        """Passes a result to the digests and to a writer; the future yields its number of bytes.

        The buffer is returned to the pool when both are done with it.
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
    """A result that is still in use.

    Args:
        result: The result.
        give: Returns its buffer to the pool.
        n_users: The number of users that will call `done`.
    """

    def __init__(self, result: Result, give: Callable[[Buffer], None], n_users: int) -> None:
        self.result, self.promise = result, Future[int]()
        self._give, self._n_users = give, n_users
        self._error: BaseException | None = None
        self._counting = threading.Lock()

    def done(self, error: BaseException | None) -> None:
        """Called by each user; the last call returns the buffer and completes the future."""
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
