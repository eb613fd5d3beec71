"""Random words by counting: the published vectors, and integers one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir

from fusion_slerp.kernels import Table, run
from fusion_slerp.kernels.building import element, of_each, of_one
from fusion_slerp.kernels.elements import I64
from fusion_slerp.kernels.random_words import MOST_MORE_WORDS, store_words
from tests.methods import drawing_reference as reference

ONES = 2**32 - 1


def words_of(dtypes):
    """A kernel that stores words in memory, and the address of the first; given: its index, and the key."""
    module = ir.Module("words_of")
    made, b, size, (memory, given, address), _ = of_one(module, "words_of_one", I64, len(dtypes), 0)
    start, key = (b.load(element(b, given, I64(i), I64), typ=I64) for i in range(2))
    first = store_words(b, memory, start, b.sub(size, I64(MOST_MORE_WORDS)), key)
    b.store(b.ptrtoint(first, I64), address)
    b.ret(I64(0))
    of_each(module, made, len(dtypes), 0)
    return module


def words(key: int, start: int, n: int) -> list[int]:
    memory, given, address = (
        np.zeros(n + MOST_MORE_WORDS, np.uint32),
        np.array([start, key], np.uint64),
        np.zeros(1, np.int64),
    )
    rows = np.array([[memory.size, *(each.ctypes.data for each in (memory, given, address))]], np.int64)
    run(words_of, Table(rows, ("uint32", "uint64", "int64")), np.empty((1, 0)), np.empty(1, np.int64))
    first = (int(address[0]) - memory.ctypes.data) // 4
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


def test_the_first_words_of_key_zero_are_the_published_ones():
    assert words(0, 0, 4) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 64, 65, 1000])
@pytest.mark.parametrize("start", [0, 1, 2, 3, 2**20 - 1, 2**34 - 3, 2**40 + 1])
def test_each_word_is_that_of_its_index(start, n):
    key = 0x8765_4321_0FED_CBA9
    assert words(key, start, n) == reference.words(key, start, n)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**62), st.integers(1, 40))
def test_any_key_and_index(key, start, n):
    assert words(key, start, n) == reference.words(key, start, n)
