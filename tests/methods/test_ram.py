"""RAM and RAM+ against counting one by one and exact fractions."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.methods.method import Unit
from fusion_slerp.methods.ram import RAM, RamOptions, RamParameters, ram
from fusion_slerp.methods.ramplus import RAMPLUS, RamplusOptions, RamplusParameters, ramplus
from fusion_slerp.passes.protocols import Made
from tests.methods.selection_reference import (
    Sets,
    assert_nearest,
    assert_table,
    decided,
    differences,
    fine_tunes,
    made_masks,
    masks_of,
    words_of,
    written,
)
from tests.reference import BF16, F16, F32, FORMATS, Format

named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}


def changed(words: list[np.ndarray], format: Format, epsilon: float) -> Sets:
    deltas = [np.abs(d.astype(np.float32)).tolist() for d in differences(words, format)]
    return [[i for i, x in enumerate(column) if x > epsilon] for column in zip(*deltas, strict=True)]


def factors_of(sets: Sets, n: int, r: float, alpha: float) -> list[Fraction]:
    result = []
    for i in range(n):
        alone = sum(models == [i] for models in sets)
        shared = sum(i in models for models in sets) - alone
        ratio = min(Fraction(shared, alone), Fraction(alpha)) if alone else Fraction(0)
        result.append(1 + Fraction(r) * ratio)
    return result


def assert_made(p: RamParameters, words: list[np.ndarray], format: Format, size: int = 400) -> Made:
    unit = Unit("w", words[0].size, words[0].size)
    made = decided(ramplus(p, unit) if isinstance(p, RamplusParameters) else ram(p, unit), words, size)
    sets = changed(words, format, p.epsilon)
    assert made_masks(made, words, size) == masks_of(sets)
    factors = [Fraction(1)] * p.n
    if isinstance(p, RamplusParameters):
        factors = factors_of(sets, p.n, p.r, p.alpha)

    def row(chosen: list[int]) -> list[Fraction]:
        shares = [factors[i] if len(chosen) == 1 else Fraction(1, len(chosen)) for i in chosen]
        return [Fraction(p.factor) * share for share in shares]

    assert_table(made.combine.table.rows, row)
    result, n_bad = written(made, words, size, format)
    assert n_bad == 0
    assert_nearest(result, made.combine.table.rows, sets, words, format)
    return made


CASES = {
    "ram": RamParameters(3, 1e-5, 1.0),
    "any change": RamParameters(3, 0.0, 1.0),
    "large changes": RamParameters(2, 2.0**-12, 0.75),
    "one model": RamParameters(1, 2.0**-12, 1.0),
    "ramplus": RamplusParameters(3, 2.0**-12, 1.0, 0.1, 0.2),
    "much": RamplusParameters(4, 2.0**-11, 1.0, 0.5, 3.0),
    "limited": RamplusParameters(2, 2.0**-11, 0.5, 1.5, 1e-3),
}


@named("case", CASES)
@named("format", FORMATS.values(), **by_name)
def test_changes_their_factors_and_sums(format, case):
    p = CASES[case]
    assert_made(p, fine_tunes(format, p.n, 600), format)


@named("case", ["ram", "any change", "ramplus", "much"])
@named("format", [BF16, F16], **by_name)
def test_the_kernels_in_float32_give_the_same(format, case, monkeypatch):
    monkeypatch.setattr(kernels, "FAST_ELEMENTS", 0)
    p = CASES[case]
    assert_made(p, fine_tunes(format, p.n, 2300), format, size=1150)


def test_unique_shared_and_no_changes():
    words = [words_of(np.array(x), F32) for x in ([1, 1, 0, 0.25], [0, 3, 0, 0.25], [0, 0, 0, 0])]
    made = assert_made(RamParameters(2, 0.5, 1.0), words, F32)
    result, _ = written(made, words, 4, F32)
    assert result.tolist() == [1.0, 2.0, 0.0, 0.0]


def test_the_default_factor_is_at_most_1_02():
    words = fine_tunes(F32, 3, 3000)
    made = decided(ramplus(RamplusParameters(3, 1e-5, 1.0, 0.1, 0.2), Unit("w", 3000, 3000)), words, 1000)
    for i in range(3):
        assert made.combine.table.rows[1 << i, i] == pytest.approx(1.02, abs=1e-15)


def test_models_that_share_everything_have_no_own_changes():
    words = [np.float32([1, 2]), np.float32([3, 4]), np.float32([0, 0])]
    assert_made(RamplusParameters(2, 0.0, 1.0, 0.1, 0.2), words, F32)


def test_any_order_of_the_models_gives_the_same_bytes():
    words = fine_tunes(BF16, 4, 1500)
    for p in (RamParameters(4, 2.0**-12, 1.0), RamplusParameters(4, 2.0**-12, 1.0, 0.3, 0.2)):
        results = set()
        for order in permutations(range(4)):
            of = [*(words[i] for i in order), words[-1]]
            results.add(written(assert_made(p, of, BF16, 700), of, 700, BF16)[0].tobytes())
        assert len(results) == 1


@named("n", [0, 1, 2])
def test_tensors_of_few_elements(n):
    assert_made(RamplusParameters(2, 1e-5, 1.0, 0.1, 0.2), fine_tunes(F32, 2, n), F32)


@named("bad", [np.nan, np.inf])
@named("where", [0, 1, 2])
def test_what_is_not_finite_is_noticed(where, bad):
    words = fine_tunes(F32, 2, 100)
    words[where][31] = bad
    for p, steps in (
        (RamParameters(2, 1e-5, 1.0), ram),
        (RamplusParameters(2, 1e-5, 1.0, 0.1, 0.2), ramplus),
    ):
        made = decided(steps(p, Unit("w", 100, 100)), words, 40)
        assert written(made, words, 40, F32)[1] == 1


def test_the_options_and_their_parameters():
    assert (RamOptions().epsilon, RamplusOptions().r, RamplusOptions().alpha) == (1e-5, 0.1, 0.2)
    p = RAM.parameters(RamOptions(towards_base=0.25), {}, ("a", "b", "base"))
    assert p == RamParameters(2, 1e-5, 0.75)
    assert (list(RAM.used(p)), RAM.copied(p), RAM.passes(p)) == ([0, 1, 2], None, (0, 0))
    p = RAMPLUS.parameters(RamplusOptions(r=1.0, alpha=2.0, epsilon=0.0), {}, ("a", "base"))
    assert p == RamplusParameters(1, 0.0, 1.0, 1.0, 2.0)
    assert RAMPLUS.passes(p) == (1, 1)
    assert RAM.copied(RAM.parameters(RamOptions(towards_base=1.0), {}, ("a", "b", "base"))) == 2
