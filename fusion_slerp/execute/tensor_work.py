"""What a worker thread does to one tensor, or to one chunk of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from fusion_slerp import kernels
from fusion_slerp.checkpoint.header import TensorEntry
from fusion_slerp.errors import CheckpointError, FusionSlerpError, MismatchError, OutputError, Problem
from fusion_slerp.execute.input_files import InputFiles
from fusion_slerp.methods import slerp
from fusion_slerp.methods.slerp import CHUNK_ELEMENTS, Coefficients, NotFiniteError
from fusion_slerp.plan import TensorPlan
from fusion_slerp.report import TensorReport
from fusion_slerp.settings import MergeSettings

Chunk = tuple[int, int]
"""Index of the first element and number of elements."""

Pair = tuple[np.ndarray, np.ndarray]
"""The words of one chunk in parent a and in parent b."""


def chunks_of(tensor: TensorPlan) -> list[Chunk]:
    """The tensor's chunks; their borders depend on nothing but its number of elements."""
    n = tensor.a.n_elements
    return [(start, min(CHUNK_ELEMENTS, n - start)) for start in range(0, n, CHUNK_ELEMENTS)]


class TensorWork:
    """The steps of a merge on open input files; every method may be called from any thread.

    Each thread has three buffers of its own, one chunk long: a's words, b's words, the result.
    """

    def __init__(self, inputs: InputFiles, settings: MergeSettings, widest: int) -> None:
        self._inputs = inputs
        self._settings = settings
        self._buffer_nbytes = CHUNK_ELEMENTS * widest
        self._local = threading.local()

    def buffer(self, name: str) -> np.ndarray:
        """The calling thread's buffer `"a"`, `"b"` or `"out"`: uint8, overwritten by each use."""
        if not hasattr(self._local, name):
            setattr(self._local, name, np.empty(self._buffer_nbytes, np.uint8))
        return getattr(self._local, name)

    def measure(self, tensor: TensorPlan, chunk: Chunk) -> tuple[float, float, float]:
        """The sums of one chunk of a pair that is to be merged."""
        return slerp.measure(*self._pair(tensor, chunk))

    def decide(
        self, tensor: TensorPlan, sums: list[tuple[float, float, float]]
    ) -> tuple[Coefficients | None, TensorReport]:
        """From the measured sums to the coefficients (None for a copy) and the report.

        Raises:
            CheckpointError: An element of a parent is infinite or NaN.
        """
        n = tensor.a.n_elements
        if tensor.action != "merge":
            return None, TensorReport(tensor.out.name, tensor.action, tensor.t, n)
        s = self._settings
        try:
            found, stats = slerp.find_coefficients(
                tensor.t, sums, lambda: self._pairs(tensor), s.DOT_THRESHOLD, s.epsilon
            )
        except NotFiniteError:
            raise self._not_finite(tensor) from None
        norms = stats.norm_a, stats.norm_b
        return found, TensorReport(tensor.out.name, found.rule, tensor.t, n, found.angle_deg, *norms)

    def produce(
        self,
        tensor: TensorPlan,
        chunk: Chunk,
        found: Coefficients | None,
        out: np.ndarray,
        pair: Pair | None = None,
    ) -> None:
        """Makes one chunk of the child's tensor.

        Args:
            tensor: What to make.
            chunk: Which part of it.
            found: The coefficients of a merge; None for a copy.
            out: uint8, as many bytes as the chunk has in the child; overwritten.
            pair: The parents' words of this chunk, where they have been read already.

        Raises:
            OutputError: A value does not fit the output type.
            MismatchError: A tensor that must be equal in both parents is not.
        """
        if found is not None:
            a, b = pair or self._pair(tensor, chunk)
            words = out.view(tensor.out.dtype.word)
            _refuse_overflow(tensor, kernels.combine(a, b, found.s0, found.s1, words))
        elif tensor.action == "copy if equal":
            self._copy_if_equal(tensor, chunk, out)
        else:
            self._copy(tensor, tensor.sources[0], chunk, out)

    def whole(self, tensor: TensorPlan, out: np.ndarray) -> TensorReport:
        """Measures and makes a tensor of at most one chunk, reading each parent once."""
        chunk = (0, tensor.a.n_elements)
        pair = self._pair(tensor, chunk) if tensor.action == "merge" else None
        found, report = self.decide(tensor, [slerp.measure(*pair)] if pair else [])
        self.produce(tensor, chunk, found, out, pair)
        return report

    def _pair(self, tensor: TensorPlan, chunk: Chunk) -> Pair:
        return (
            self._inputs.read(tensor.a, *chunk, self.buffer("a")),
            self._inputs.read(tensor.b, *chunk, self.buffer("b")),
        )

    def _pairs(self, tensor: TensorPlan) -> Iterator[Pair]:
        return (self._pair(tensor, chunk) for chunk in chunks_of(tensor))

    def _copy(self, tensor: TensorPlan, source: TensorEntry, chunk: Chunk, out: np.ndarray) -> None:
        if source.dtype == tensor.out.dtype:
            self._inputs.read(source, *chunk, out)
            return
        words = self._inputs.read(source, *chunk, self.buffer("a"))
        _refuse_overflow(tensor, kernels.convert(words, out.view(tensor.out.dtype.word)))

    def _copy_if_equal(self, tensor: TensorPlan, chunk: Chunk, out: np.ndarray) -> None:
        a, b = self._pair(tensor, chunk)
        if not np.array_equal(a, b):
            first = chunk[0] + int(np.argmax(a != b)) // tensor.a.dtype.itemsize
            fields = (
                ("tensor", f"{tensor.a.name} ({tensor.a.dtype.code})"),
                ("a", tensor.a.file),
                ("b", tensor.b.file),
                ("found", f"different values, first at element {first}"),
            )
            fix = "integers and booleans are copied, never interpolated; make them equal, or set t: 0"
            raise Problem(MismatchError, "a tensor must be equal in both", fields, fix).error()
        out[:] = a

    def _not_finite(self, tensor: TensorPlan) -> FusionSlerpError:
        """Reads the tensor once more to say where and how often."""
        found: list[tuple[str, object]] = [("tensor", tensor.a.name)]
        for label, entry in (("a", tensor.a), ("b", tensor.b)):
            count, first = 0, -1
            for start, n in chunks_of(tensor):
                bad = ~_finite(self._inputs.read(entry, start, n, self.buffer("a")))
                if bad.any() and first < 0:
                    first = start + int(np.argmax(bad))
                count += int(np.count_nonzero(bad))
            if count:
                found.append((label, f"{count} of {entry.n_elements} elements, first at {first}"))
                found.append(("file", entry.file))
        fix = "use an undamaged copy of that model; such weights make every output NaN"
        return Problem(CheckpointError, "NaN or infinity in a weight", tuple(found), fix).error()


def _finite(words: np.ndarray) -> np.ndarray:
    if words.dtype == np.uint16:
        return (words & np.uint16(0x7F80)) != 0x7F80
    return np.isfinite(words.view(np.float16) if words.dtype == np.int16 else words)


def _refuse_overflow(tensor: TensorPlan, count: int) -> None:
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
