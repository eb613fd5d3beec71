"""The compiled loops over a chunk's elements: measure, combine, round once.

Every kernel takes flat, contiguous numpy arrays of raw words (see `dtypes.DType.word`): uint16 is
bfloat16, int16 is float16, float32 and float64 are themselves. Kernels release the GIL.

All arithmetic is float64 without fused multiply-add or reassociation, and the sums run in fixed
lanes, so a result does not depend on the processor's vector width or on the number of threads. Float32
serves where it gives the same words (see `fast_sum`).

Each kernel is compiled by LLVM for this processor and the words' types at its first use, in a few
hundredths of a second, and kept in a file (see `code_files`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fusion_slerp.kernels import doubts, fast_sum, loops
from fusion_slerp.kernels.building import LANES
from fusion_slerp.kernels.compiler import Kernel, compiled

FAST_ELEMENTS = 1 << 18
"""Elements from which on a kernel pays that is faster but takes longer to compile."""

Words = Sequence[np.ndarray]
"""One chunk of each of several vectors: 1-D arrays of words, of equal length, each of any of the four types.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Many sets of small vectors in memory, which must stay valid while the table is in use.

    Attributes:
        rows: int64 of shape (many, 1 + arrays), contiguous: for each set the number of words, then the
            addresses of its arrays.
        dtypes: The numpy dtypes of the arrays.
    """

    rows: np.ndarray
    dtypes: tuple[str, ...]


def gram(vectors: Words) -> np.ndarray:
    """Returns the inner products of every two of n vectors, in float64.

    Returns:
        Fresh float64 of shape (n*(n+1)/2,): the upper triangle of the Gram matrix, row by row: for two
        vectors <a,a>, <a,b>, <b,b>. Not finite if an element is not (or, for float64 input beyond about
        1e154, if a square overflows). They add up over chunks.
    """
    return gram_of_many(table_of("gram", vectors))[0]


def gram_of_differences(vectors: Words) -> np.ndarray:
    """Returns the inner products of every two of n vectors minus one more, which is the last; as `gram` does.

    Returns:
        Fresh float64 of shape (n*(n+1)/2,); each difference is rounded to float64 before it is multiplied.
    """
    return gram_of_many(table_of("gram_of_differences", vectors), is_relative=True)[0]


def chords(a: np.ndarray, b: np.ndarray, inverse_norm_a: float, inverse_norm_b: float) -> np.ndarray:
    """Returns the squared chords |u-v|^2 and |u+v|^2 of the unit vectors u = a/|a|, v = b/|b|, in float64.

    The angle from them, 2*atan2(|u-v|, |u+v|), keeps its digits even if the cosine is close to
    1 or -1, where arccos loses them. They add up over chunks, as `gram` does.

    Returns:
        Fresh float64 of shape (2,).
    """
    factors = np.array([[inverse_norm_a, inverse_norm_b]])
    return run(loops.chords, table_of("chords", (a, b)), factors, np.empty((1, 2)))[0]


def weighted_sum(vectors: Words, factors: Sequence[float], out: np.ndarray) -> int:
    """Writes the sum of factor times vector to `out`, rounded once to `out`'s type.

    With up to two vectors: float64 products and one float64 addition before the rounding. With three or more,
    products and sums keep their rounding errors (see `loops`): each element is the value of its type nearest
    to the exact sum, whatever the order of the vectors, unless terms cancel in all but their last digits.

    Args:
        vectors: At least one.
        factors: One per vector.
        out: As many words, overwritten; of any of the four types; shares no memory with the vectors.

    Returns:
        The number of elements of `out` that are infinite or NaN.
    """
    table = table_of("weighted_sum", (*vectors, out))
    kernel, of_one = weighted_sum_kernel(table.dtypes, out.size, factors), np.array([factors], np.float64)
    _check_factors(table, of_one)
    return int(run(kernel, table, of_one, np.empty(1, np.int64))[0])


def weighted_sum_kernel(dtypes: Sequence[str], n: int, factors: Sequence[float] = ()) -> Kernel:
    """Returns the fastest kernel for a sum of n elements; all give the same words.

    Args:
        dtypes: Of the vectors and the sum.
        n: Number of elements.
        factors: Those of the sum, if they are known.
    """
    if are_many(n) and doubts.suits(dtypes):
        has_ties = len(factors) > 1 and fast_sum.are_powers(factors)
        return fast_sum.fast_sum_of_powers if has_ties else fast_sum.fast_weighted_sum
    return loops.weighted_sum


def are_many(n: int) -> bool:
    """Whether n elements are enough for kernels that take longer to compile."""
    return n >= FAST_ELEMENTS


def gram_of_many(table: Table, is_relative: bool = False) -> np.ndarray:
    """`gram` of each of many sets of small vectors, or `gram_of_differences`, in one call.

    Returns:
        Fresh float64 of shape (many, n*(n+1)/2).
    """
    n = len(table.dtypes) - is_relative
    kernel = loops.gram_of_differences if is_relative else loops.gram
    return run(kernel, table, _NONE, np.empty((len(table.rows), n * (n + 1) // 2)))


def weighted_sums_of_many(table: Table, factors: np.ndarray) -> np.ndarray:
    """`weighted_sum` of each of many sets of small vectors, in one call; the table's last array is `out`.

    Args:
        table: The vectors, and the array for each sum.
        factors: float64 of shape (many, vectors), contiguous.

    Returns:
        Fresh int64 of shape (many,): the number of elements of each sum that are infinite or NaN.
    """
    _check_factors(table, factors)
    return run(loops.weighted_sum, table, factors, np.empty(len(table.rows), np.int64))


def _check_factors(table: Table, factors: np.ndarray) -> None:
    """Raises ValueError unless there is a factor for each vector: the compiled code trusts its pointers."""
    needed = len(table.rows), len(table.dtypes) - 1
    if factors.shape != needed:
        raise ValueError(f"weighted_sum: factors of shape {factors.shape}; needed: {needed}")


def convert(a: np.ndarray, out: np.ndarray) -> int:
    """Writes `a` to `out` in `out`'s type, rounded once; returns how many results are not finite."""
    return int(run(loops.convert, table_of("convert", (a, out)), _NONE, np.empty(1, np.int64))[0])


def values_of(words: np.ndarray) -> np.ndarray:
    """Returns the values of words as fresh float64, exact."""
    values = np.empty(words.size)
    convert(words, values)
    return values


def prepare(kernel: Kernel, *dtypes: str) -> None:
    """Compiles a kernel for the numpy dtypes of its arrays, ahead of its first use."""
    compiled(kernel, dtypes)


def run(kernel: Kernel, table: Table, factors: np.ndarray, results: np.ndarray) -> np.ndarray:
    """Calls a kernel on every set of a table.

    Args:
        kernel: Builds the kernel; see `building`.
        table: The arrays.
        factors: float64 of shape (sets, factors), contiguous.
        results: Of shape (sets, sums), float64, for a kernel that sums; else int64 of shape (sets,).
            Overwritten.

    Returns:
        The results.
    """
    n_sums = results.shape[1] if results.ndim == 2 else 0
    arrays = (table.rows, factors, results, np.empty((n_sums, LANES)))
    for array, kind in zip(arrays, (np.int64, np.float64, results.dtype, np.float64), strict=True):
        if array.dtype != kind or not array.flags.c_contiguous:  # the compiled code trusts its pointers
            raise ValueError(f"{kernel.__name__}: {array.dtype}; needed: {np.dtype(kind)}, contiguous")
    compiled(kernel, table.dtypes)(len(table.rows), *[_address(array) for array in arrays])
    return results


def table_of(kernel: str, words: Words) -> Table:
    """Returns the table of one set of arrays, which must stay valid while it is in use.

    Raises:
        ValueError: Their lengths differ, or one is not contiguous.
    """
    n = words[0].size
    for array in words:
        if array.size != n or not array.flags.c_contiguous:
            found = f"{array.size} words, contiguous: {array.flags.c_contiguous}"
            raise ValueError(f"{kernel}: {found}; needed: {n}, contiguous")
    return table_with(words, types_of(words))


def call(
    kernel: Kernel, arrays: Sequence[np.ndarray], dtypes: Sequence[str], factors: Sequence[float] = ()
) -> int:
    """Calls a kernel on one set of arrays, see `table_with`; returns its result."""
    given = np.array([factors], np.float64).reshape(1, -1)
    return int(run(kernel, table_with(arrays, dtypes), given, np.empty(1, np.int64))[0])


def table_with(arrays: Sequence[np.ndarray], dtypes: Sequence[str]) -> Table:
    """Returns the table of one set, whose number of words is the first array's; others have their own."""
    for array in arrays:
        assert array.flags.c_contiguous, "the compiled code trusts its pointers"
    return Table(np.array([[arrays[0].size, *map(_address, arrays)]], np.int64), tuple(dtypes))


def _address(array: np.ndarray) -> int:
    """Where an array begins; numpy's own `ctypes.data` takes four times as long."""
    if array.flags.writeable:
        return ctypes.addressof(_NO_BYTES.from_buffer(array.data))
    return array.ctypes.data


def types_of(words: Words) -> tuple[str, ...]:
    """The names of the arrays' types."""
    return tuple(_name(each.dtype) for each in words)


@cache
def _name(dtype: np.dtype) -> str:
    """`dtype.name`, which numpy builds at each call: that takes longer than the other steps of ours."""
    return dtype.name


_NO_BYTES = ctypes.c_char * 0

_NONE = np.empty((1, 0))
"""No factors, or no sums."""
