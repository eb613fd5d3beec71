"""Random words by counting: the published vectors, and integers one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir

from fusion_slerp.kernels import Table, run
from fusion_slerp.kernels.building import element, of_each, of_one
from fusion_slerp.kernels.elements import I64
from fusion_slerp.kernels.random_words import LOWER, MOST_MORE_HALVES, UPPER, store_halves
from tests.methods import drawing_reference as reference

ONES = 2**32 - 1


def halves_in(which):
    """Returns a kernel that stores halves, and the address of the first; given: its index, and the key."""

    def halves_of(dtypes):
        module = ir.Module(f"halves_of_{which}")
        made, b, size, (memory, given, address), _ = of_one(module, "one", I64, len(dtypes), 0)
        start, key = (b.load(element(b, given, I64(i), I64), typ=I64) for i in range(2))
        first = store_halves(b, memory, start, b.sub(size, I64(MOST_MORE_HALVES)), key, which)
        b.store(b.ptrtoint(first, I64), address)
        b.ret(I64(0))
        of_each(module, made, len(dtypes), 0)
        return module

    return halves_of


KERNELS = [halves_in(UPPER), halves_in(LOWER)]


def halves(key: int, start: int, n: int, which: int = UPPER) -> list[int]:
    memory, given, address = (
        np.zeros(n + MOST_MORE_HALVES, np.uint16),
        np.array([start, key], np.uint64),
        np.zeros(1, np.int64),
    )
    rows = np.array([[memory.size, *(each.ctypes.data for each in (memory, given, address))]], np.int64)
    table = Table(rows, ("uint16", "uint64", "int64"))
    run(KERNELS[which], table, np.empty((1, 0)), np.empty(1, np.int64))
    first = (int(address[0]) - memory.ctypes.data) // memory.itemsize
    return memory[first : first + n].tolist()


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ((ONES, ONES), (ONES, ONES, ONES, ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_the_reference_has_the_published_words(key, counter, expected):
    assert reference.philox(key, counter) == expected


def test_the_first_halves_of_key_zero_are_the_published_bits():
    assert halves(0, 0, 8) == [0xE8D5, 0x6627, 0xC58D, 0xE169, 0xAC4C, 0xBC57, 0xDBD8, 0x9B00]


@pytest.mark.parametrize("which", [UPPER, LOWER])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 129, 1000])
@pytest.mark.parametrize("start", [0, 1, 7, 2**20 - 1, 2**35 - 3, 2**40 + 1])
def test_each_half_is_that_of_its_index(start, n, which):
    key = 0x8765_4321_0FED_CBA9
    assert halves(key, start, n, which) == [reference.half(key, start + i, which) for i in range(n)]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**62), st.integers(1, 80), st.sampled_from([UPPER, LOWER]))
def test_any_key_and_index(key, start, n, which):
    assert halves(key, start, n, which) == [reference.half(key, start + i, which) for i in range(n)]


def test_words_are_evenly_distributed():
    """Means, and correlations of neighbours and of halves, within five of their standard deviations."""
    n = 1 << 16
    upper, lower = (np.array(halves(7, 3, n, which)) / 2**16 - 0.5 for which in (UPPER, LOWER))
    for one, other in ((upper, upper), (lower, lower), (upper, lower)):
        assert abs(one.mean()) < 5 * (12 * n) ** -0.5
        assert abs(np.mean(one[1:] * other[:-1])) * 12 < 5 * n**-0.5
    assert abs(np.mean(upper * lower)) * 12 < 5 * n**-0.5
