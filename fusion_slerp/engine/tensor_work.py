"""What a worker thread does to a batch of small tensors, or to one chunk of a large one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Semaphore
from typing import TypeVar

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.chunks import PAGE_NBYTES, Chunk
from fusion_slerp.engine.buffers import Buffer, Buffers
from fusion_slerp.engine.reader import PairReader, Words, split
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.engine.row_filler import RowFiller
from fusion_slerp.errors import CheckpointError, FusionSlerpError, MismatchError, OutputError, Problem
from fusion_slerp.methods import slerp
from fusion_slerp.methods.slerp import Coefficients, NotFiniteError, ReadPairs, Sums
from fusion_slerp.planning.plan import TensorPlan
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.open_files import InputFiles

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured chunk.

    Attributes:
        sums: What the method measured.
        kept: The buffer that still holds the chunk's words; None if they must be read again.
    """

    sums: Sums
    kept: Buffer | None


@dataclass(frozen=True, slots=True)
class Result:
    """Bytes of the child, ready to be written.

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


class TensorWork:
    """The steps of a merge on open input files; every method may be called from any thread.

    Args:
        inputs: The parents' files.
        settings: How to merge.
        buffers: Where words and results lie.
        n_computing: How many threads may compute at a time; others read meanwhile.
    """

    def __init__(
        self,
        inputs: InputFiles,
        settings: MergeSettings,
        buffers: Buffers,
        n_computing: int,
    ) -> None:
        self._inputs = inputs
        self._reader = PairReader(inputs)
        self.settings = settings
        self._buffers = buffers
        self._computing = Semaphore(n_computing)

    def prepare(self, tensors: Sequence[TensorPlan]) -> None:
        """Compiles the kernels of a merge, which takes some hundredths of a second, while others read."""
        merged = [tensor for tensor in tensors if tensor.action == "merge"]
        types = dict.fromkeys((t.a.dtype.word, t.b.dtype.word, t.out.dtype.word) for t in merged)
        for a, b, _ in types:
            kernels.prepare("measure", a, b)
        for words in types:
            kernels.prepare("combine", *words)

    def measure(self, tensor: TensorPlan, chunk: Chunk, keep: bool) -> Measured:
        """The sums of one chunk of a pair that is to be merged."""
        buffer = self._buffers.pairs.take()
        try:
            a, b = self._reader.read(tensor, chunk, buffer)
            with self._computing:
                sums = slerp.measure(a, b)
        except BaseException:
            self._buffers.pairs.give(buffer)
            raise
        if not keep:
            self._buffers.pairs.give(buffer)
        return Measured(sums, buffer if keep else None)

    def decide(
        self, tensor: TensorPlan, sums: Sequence[Sums], read_again: ReadPairs | None = None
    ) -> tuple[Coefficients | None, TensorReport]:
        """From the measured sums to the coefficients (None for a copy) and the report.

        Args:
            tensor: What was measured.
            sums: Of each of its chunks.
            read_again: Gives the pair's words where they are at hand; None reads the files.

        Raises:
            CheckpointError: An element of a parent is infinite or NaN.
        """
        n, rows = tensor.out.n_elements, None if tensor.rows is None else tensor.rows.counts
        if tensor.action != "merge":
            return None, TensorReport(tensor.out.name, tensor.action, tensor.t, n, rows=rows)
        s = self.settings
        read_again = read_again or (lambda: self._pairs(tensor))
        try:
            found, stats = slerp.find_coefficients(tensor.t, sums, read_again, s.DOT_THRESHOLD, s.epsilon)
        except NotFiniteError:
            raise self.not_finite(tensor) from None
        norms = stats.norm_a, stats.norm_b
        return found, TensorReport(tensor.out.name, found.rule, tensor.t, n, found.angle_deg, *norms, rows)

    def filler(self, tensor: TensorPlan, found: Coefficients | None) -> RowFiller | None:
        """What makes the rows that are not merged, where the vocabularies differ."""
        if tensor.rows is None:
            return None
        buffer = self._buffers.pairs.take()
        try:
            return RowFiller(tensor, found, self.settings.vocab_fill, self._inputs, buffer)
        finally:
            self._buffers.pairs.give(buffer)

    def produce(
        self,
        tensor: TensorPlan,
        chunk: Chunk,
        found: Coefficients | None,
        kept: Buffer | None,
        filler: RowFiller | None = None,
    ) -> Result:
        """Makes one chunk of the child's tensor.

        Args:
            tensor: What to make.
            chunk: Which part of it.
            found: The coefficients of a merge; None for a copy.
            kept: The buffer of the measured chunk, where it was kept; is given back.
            filler: Makes the rows that are not merged, in a tensor with a row map.

        Raises:
            OutputError: A value does not fit the output type.
            MismatchError: A tensor that must be equal in both parents is not.
        """
        start, count = chunk
        itemsize = tensor.out.dtype.itemsize
        pair = self._buffers.pairs.take() if kept is None else kept
        try:
            result = self._result(tensor, start * itemsize, count * itemsize)
            try:
                if tensor.rows is None or tensor.takes_both:
                    again = kept is None
                    words = self._reader.read(tensor, chunk, pair) if again else split(tensor, count, pair)
                    with self._computing:
                        _fill(tensor, words, start, found, result.data)
                if filler is not None:
                    out = result.data.view(tensor.out.dtype.word)
                    refuse_overflow(tensor, filler.fill(chunk, pair, out))
            except BaseException:
                self._buffers.outs.give(result.buffer)
                raise
        finally:
            self._buffers.pairs.give(pair)
        return result

    def with_pair(self, tensor: TensorPlan, chunk: Chunk, use: Callable[[np.ndarray, np.ndarray], R]) -> R:
        """Returns what `use` makes of the words of both parents, which it must not keep."""
        pair = self._buffers.pairs.take()
        try:
            a, b = self._reader.read(tensor, chunk, pair)
            with self._computing:
                return use(a, b)
        finally:
            self._buffers.pairs.give(pair)

    def fill_pair(
        self, tensor: TensorPlan, chunk: Chunk, fill: Callable[[np.ndarray, np.ndarray, np.ndarray], R]
    ) -> tuple[Result, R]:
        """Has `fill` make one chunk from the words of both parents; also returns what it returns."""
        itemsize = tensor.out.dtype.itemsize
        result = self._result(tensor, chunk[0] * itemsize, chunk[1] * itemsize)
        out = result.data.view(tensor.out.dtype.word)
        try:
            return result, self.with_pair(tensor, chunk, lambda a, b: fill(a, b, out))
        except BaseException:
            self._buffers.outs.give(result.buffer)
            raise

    def batch(self, tensors: Sequence[TensorPlan]) -> tuple[Result, list[TensorReport]]:
        """Makes neighbours in a file, one chunk together at most; reads each parent once."""
        pair = self._buffers.pairs.take()
        try:
            result = self._result(tensors[0], 0, sum(tensor.out.nbytes for tensor in tensors))
            try:
                pieces = self._reader.read_batch(tensors, pair)
                with self._computing:
                    reports = self._fill_batch(tensors, pieces, result)
            except BaseException:
                self._buffers.outs.give(result.buffer)
                raise
        finally:
            self._buffers.pairs.give(pair)
        return result, reports

    def _fill_batch(
        self, tensors: Sequence[TensorPlan], pieces: Sequence[Words], result: Result
    ) -> list[TensorReport]:
        reports = []
        for tensor, piece in zip(tensors, pieces, strict=True):
            merged = tensor.action == "merge"
            sums = [slerp.measure(*piece)] if merged else []
            found, report = self.decide(tensor, sums, lambda piece=piece: [(piece[0], piece[1])])
            start = tensor.out.offset - result.offset
            _fill(tensor, piece, 0, found, result.data[start : start + tensor.out.nbytes])
            reports.append(report)
        return reports

    def _result(self, tensor: TensorPlan, start: int, nbytes: int) -> Result:
        """Takes a buffer for bytes that begin `start` bytes after the tensor's first."""
        offset = tensor.out.offset + start
        buffer = self._buffers.outs.take()
        in_page = offset % PAGE_NBYTES
        return Result(tensor.out.shard, offset, buffer, buffer[in_page : in_page + nbytes])

    def _pairs(self, tensor: TensorPlan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        buffer = self._buffers.pairs.take()
        try:
            for chunk in tensor.chunks:
                a, b = self._reader.read(tensor, chunk, buffer)
                yield a, b
        finally:
            self._buffers.pairs.give(buffer)

    def not_finite(self, tensor: TensorPlan) -> FusionSlerpError:
        """Reads the tensor once more to say where and how often."""
        counts, firsts, start = [0, 0], [-1, -1], 0
        for pair in self._pairs(tensor):
            for i, words in enumerate(pair):
                bad = ~_finite(words)
                if bad.any() and firsts[i] < 0:
                    firsts[i] = start + int(np.argmax(bad))
                counts[i] += int(np.count_nonzero(bad))
            start += pair[0].size
        found: list[tuple[str, object]] = [("tensor", tensor.a.name)]
        for label, entry, count, first in zip("ab", (tensor.a, tensor.b), counts, firsts, strict=True):
            if count:
                found.append((label, f"{count} of {entry.n_elements} elements, first at {first}"))
                found.append(("file", entry.file))
        fix = "use an undamaged copy of that model; such weights make every output NaN"
        return Problem(CheckpointError, "NaN or infinity in a weight", tuple(found), fix).error()


def _fill(tensor: TensorPlan, words: Words, start: int, found: Coefficients | None, out: np.ndarray) -> None:
    """Writes the child's bytes of a piece that begins at element `start` to `out`, uint8."""
    if found is not None:
        a, b = words
        overflowed = kernels.combine(a, b, found.s0, found.s1, out.view(tensor.out.dtype.word))
        refuse_overflow(tensor, overflowed)
    elif tensor.action == "copy if equal":
        _refuse_difference(tensor, words, start)
        out[:] = words[0]
    elif tensor.sources[0].dtype == tensor.out.dtype:
        out[:] = words[0].view(np.uint8)
    else:
        refuse_overflow(tensor, kernels.convert(words[0], out.view(tensor.out.dtype.word)))


def _refuse_difference(tensor: TensorPlan, words: Words, start: int) -> None:
    a, b = words
    if np.array_equal(a, b):
        return
    first = start + int(np.argmax(a != b)) // tensor.a.dtype.itemsize
    fields = (
        ("tensor", f"{tensor.a.name} ({tensor.a.dtype.code})"),
        ("a", tensor.a.file),
        ("b", tensor.b.file),
        ("found", f"different values, first at element {first}"),
    )
    fix = "integers and booleans are copied, never interpolated; make them equal, or set t: 0"
    raise Problem(MismatchError, "a tensor must be equal in both", fields, fix).error()


def refuse_overflow(tensor: TensorPlan, count: int) -> None:
    """Raises OutputError if a result holds elements that are not finite."""
    if not count:
        return
    name = tensor.out.dtype.name
    fields = (
        ("tensor", tensor.out.name),
        ("found", f"{count} values in one chunk that {name} cannot hold (or that are not finite)"),
        ("a", tensor.a.file),
        ("b", tensor.b.file),
    )
    fix = f"set dtype: {tensor.out.dtype.further_reaching}, which reaches further"
    raise Problem(OutputError, f"overflow to infinity in {name}", fields, fix).error()


def _finite(words: np.ndarray) -> np.ndarray:
    if words.dtype == np.uint16:
        return (words & np.uint16(0x7F80)) != 0x7F80
    return np.isfinite(words.view(np.float16) if words.dtype == np.int16 else words)
