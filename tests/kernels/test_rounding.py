"""Conversion against the reference: every word of the 16-bit types, and values next to every border."""

import numpy as np
import torch

from fusion_slerp import kernels
from fusion_slerp.kernels import compiler, elements
from tests.kernels.test_kernels import (
    ALL,
    HALVES,
    all_sorts,
    assert_same_values,
    by_name,
    empty_like,
    named,
    words_for_kernels,
)
from tests.reference import BF16, F16, F32, F64, Format, decode, encode, round_to


def converted(values: np.ndarray, format: Format) -> np.ndarray:
    out = empty_like(values, format)
    overflowed = kernels.convert(np.ascontiguousarray(values, np.float64), out)
    result = decode(out, format)
    assert overflowed == np.count_nonzero(~np.isfinite(result))
    return result


@named("out", ALL, **by_name)
@named("format", HALVES, **by_name)
def test_convert_of_every_16_bit_word(format, out):
    words = np.arange(65536, dtype=np.uint16)
    result = empty_like(words, out)
    overflowed = kernels.convert(words_for_kernels(words, format), result)
    values = decode(words, format)
    number = ~np.isnan(values)
    assert_same_values(decode(result, out)[number], round_to(values[number], out))
    assert not np.isfinite(decode(result, out)[~number]).any()
    assert overflowed == np.count_nonzero(~np.isfinite(decode(result, out)))
    if out is format:
        np.testing.assert_array_equal(result.view(np.uint16)[number], words[number])
    elif out in (F32, F64):
        np.testing.assert_array_equal(decode(result, out)[number], values[number])


@named("out", ALL, **by_name)
@named("format", [F32, F64], **by_name)
def test_convert_of_random_wide_words(format, out):
    words = all_sorts(format, 200_000, seed=17)
    result = empty_like(words, out)
    kernels.convert(words, result)
    assert_same_values(decode(result, out), round_to(decode(words, format), out))


def finite_magnitudes(format: Format) -> np.ndarray:
    """All magnitudes of a 16-bit type in ascending order, and the next power of two."""
    magnitudes = decode(np.arange(format.infinity + 1, dtype=np.uint16), format)
    magnitudes[-1] = 2.0 ** (format.bias + 1)
    return magnitudes


@named("sign", [1, -1])
@named("format", HALVES, **by_name)
def test_rounding_next_to_every_border_between_two_neighbours(format, sign):
    """The float64 values next to a tie are lost in float32: rounding twice would miss them."""
    magnitudes = finite_magnitudes(format)
    low, high = magnitudes[:-1], magnitudes[1:]
    border = low + (high - low) / 2  # exact
    low, high = low.copy(), np.where(high > format.largest, np.inf, high)
    even_word = np.arange(low.size) % 2 == 0
    assert_same_values(converted(sign * border, format), sign * np.where(even_word, low, high))
    above, below = np.nextafter(border, np.inf), np.nextafter(border, 0)
    assert_same_values(converted(sign * above, format), sign * high)
    assert_same_values(converted(sign * below, format), sign * low)
    twice = round_to(round_to(above, F32), format)
    assert np.count_nonzero(twice != high) > 0.45 * high.size  # the test value is a tie


def test_rounding_to_float32_next_to_borders():
    values = np.abs(decode(all_sorts(F32, 50_000, seed=18), F32))
    words = encode(values, F32)
    next_values = decode(words + np.uint32(1), F32)
    next_values = np.where(np.isinf(next_values), 2.0**128, next_values)
    border = values + (next_values - values) / 2
    up = np.where(next_values > F32.largest, np.inf, next_values)
    assert_same_values(converted(border, F32), np.where(words % 2 == 0, values, up))
    assert_same_values(converted(np.nextafter(border, np.inf), F32), up)
    assert_same_values(converted(np.nextafter(border, 0), F32), values)


@named("format", ALL, **by_name)
def test_signs_of_zero_survive_and_tiny_values_become_zeros_of_their_sign(format):
    tiny = 5e-324 if format is not F64 else 0.0
    result = converted(np.array([0.0, -0.0, tiny, -tiny]), format)
    assert_same_values(result, np.array([0.0, -0.0, 0.0, -0.0]))


def test_rounding_agrees_with_numpy_and_torch_where_those_round_once():
    values = np.random.default_rng(19).normal(0, 1, 100_000) * 2.0 ** np.arange(-30, 20).repeat(2000)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float64)  # numpy rounds float64 to float16 once
    assert_same_values(converted(values, F16), half)
    single = values.astype(np.float32)
    out = empty_like(single, BF16)
    kernels.convert(single, out)
    theirs = torch.from_numpy(single).to(torch.bfloat16).double().numpy()
    assert_same_values(decode(out, BF16), theirs)


def test_float16_is_read_the_same_without_the_processor_s_help(monkeypatch):
    monkeypatch.setattr(compiler, "_functions", {})
    words = np.arange(1 << 16, dtype=np.uint16).view(np.int16)
    asked = []
    monkeypatch.setattr(elements, "has_float16", lambda: asked.append(1))
    assert_same_values(kernels.values_of(words), decode(words, F16))
    assert asked
