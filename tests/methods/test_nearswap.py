"""Nearswap against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from fusion_slerp.methods.method import Unit
from fusion_slerp.methods.nearswap import NEARSWAP, NearswapOptions, NearswapParameters, nearswap
from tests.methods.selection_reference import decided, fine_tunes, words_of, written
from tests.reference import BF16, F32, F64, FORMATS, Format, decode, nearest

named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}


def exactly(x: float, b: float, t: float, factor: float) -> Fraction:
    difference = Fraction(x) - Fraction(b)
    return Fraction(b) + Fraction(factor) * max(-Fraction(t), min(Fraction(t), difference))


@named("factor", [1.0, 0.7])
@named("t", [1e-3, 2.0**-12, 0.1, 1e-8, 10.0, 3e-4])
@named("format", FORMATS.values(), **by_name)
def test_every_element_is_the_nearest_of_its_type(format: Format, t, factor):
    words = fine_tunes(format, 1, 600)
    made = decided(nearswap(NearswapParameters(t, factor), Unit("w", 600, 600)), words, 400)
    result, n_bad = written(made, words, 400, format)
    model, base = (decode(each, format).tolist() for each in words)
    expected = [nearest(exactly(x, b, t, factor), format) for x, b in zip(model, base, strict=True)]
    assert n_bad == 0
    assert made.rule == "nearswap"
    if format is not F64 or factor == 1:
        np.testing.assert_array_equal(decode(result, format), expected)
    else:  # the two coefficients themselves are rounded
        np.testing.assert_allclose(decode(result, format), expected, rtol=2**-52)


def test_close_elements_become_the_models_own():
    base = np.array([1.0, 1.0, 1.0, 1.0, -0.5])
    words = [words_of(base + np.array([0.25, 0.5, -0.75, 0.0, -4.0]), F32), words_of(base, F32)]
    made = decided(nearswap(NearswapParameters(0.5, 1.0), Unit("w", 5, 5)), words, 5)
    assert written(made, words, 5, F32)[0].tolist() == [1.25, 1.5, 0.5, 1.0, -1.0]


@named("bad", [np.nan, np.inf, -np.inf])
@named("where", [0, 1])
def test_what_is_not_finite_is_noticed(where, bad):
    words = fine_tunes(F32, 1, 50)
    words[where][7] = bad
    made = decided(nearswap(NearswapParameters(1e-3, 1.0), Unit("w", 50, 50)), words, 20)
    assert written(made, words, 20, F32)[1] == 1


def test_other_types_for_the_result():
    words = fine_tunes(BF16, 1, 500)
    made = decided(nearswap(NearswapParameters(3e-4, 1.0), Unit("w", 500, 500)), words, 500)
    model, base = (decode(each, BF16).tolist() for each in words)
    expected = [nearest(exactly(x, b, 3e-4, 1.0), F32) for x, b in zip(model, base, strict=True)]
    np.testing.assert_array_equal(written(made, words, 500, F32)[0], expected)


def test_the_options_and_their_parameters():
    p = NEARSWAP.parameters(NearswapOptions(towards_base=0.25), {"t": 0.5}, ("a", "base"))
    assert p == NearswapParameters(0.5, 0.75)
    assert (NEARSWAP.used(p), NEARSWAP.copied(p), NEARSWAP.passes(p)) == ([0, 1], None, (0, 0))
    assert NEARSWAP.copied(NearswapParameters(0.0, 1.0)) == 1
    assert NEARSWAP.copied(NearswapParameters(0.5, 0.0)) == 1
