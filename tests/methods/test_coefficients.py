"""Methods in the span of their sources: coefficients against 50 digits, elements against exact fractions."""

from itertools import permutations

import numpy as np
import pytest

from fusion_slerp.methods import METHODS
from fusion_slerp.methods.method import Unit, WithoutBase
from fusion_slerp.methods.model_stock import MODEL_STOCK, ModelStockParameters, model_stock
from fusion_slerp.options import declared
from fusion_slerp.passes.protocols import drive
from fusion_slerp.passes.units import by_column, by_row
from tests.methods.span_cases import (
    ALL,
    CASES,
    CHUNK,
    UNEQUAL,
    N,
    cases_and_numbers,
    each_case,
    named,
    sources,
    values_of,
)
from tests.reference import BF16, F16, F32, F64, decode, exact_sums, nearest

# --- against the references ---


@named(("case", "n"), [*cases_and_numbers()])
@named("spread", [1e-3, 0.5, 30.0])
def test_coefficients_agree_with_50_digits(case, n, spread):
    for formats in ((F32,), (F16, F64, BF16)):
        words = sources(case, n, formats, spread)
        found = case.decide(words).combine.coefficients
        expected = case.reference(values_of(words, formats))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert abs(one - other) <= 1e-12 * max(1, abs(other))


@named("format", ALL, ids=lambda format: format.name)
@each_case
def test_each_element_is_the_nearest_of_its_type(case, format):
    n = case.n_models[-1]
    words = sources(case, n, (format,))
    combine = case.decide(words).combine
    out = np.empty_like(words[0])
    for start in range(0, N, CHUNK):
        here = slice(start, start + CHUNK)
        assert combine.into([each[here] for each in words], out[here]) == 0
    sums = exact_sums([decode(each, format) for each in words], combine.coefficients)
    expected = [nearest(each, format) for each in sums]
    found = decode(out, format).tolist()
    if len(words) > 2:
        assert found == expected
    else:  # of two, float64's sum is rounded
        unlike = sum(one != other for one, other in zip(found, expected, strict=True))
        assert unlike <= (N if format is F64 else 1)


# --- properties ---


@each_case
def test_the_order_of_the_models_changes_no_bit(case):
    if case.is_ordered:
        return
    n = min(case.n_models[-1], 3)
    formats = (F32, BF16, F16)
    words = sources(case, n, formats)
    models, base = words[:n], words[n:]
    first = case.decide(words)
    for order in permutations(range(n)):
        made = case.decide([*(models[i] for i in order), *base], [UNEQUAL[i] for i in order])
        own = made.combine.coefficients
        assert own[:n] == tuple(first.combine.coefficients[i] for i in order)
        assert own[n:] == first.combine.coefficients[n:]
        assert made.rule == first.rule


@named("power", [-20, 3, 40])
@each_case
def test_scaling_by_a_power_of_two_scales_the_result(case, power):
    n = case.n_models[-1]
    words = sources(case, n, (F64,))
    scaled = [np.ldexp(each, power) for each in words]
    assert case.decide(scaled).combine.coefficients == case.decide(words).combine.coefficients


@each_case
def test_a_weight_of_zero_leaves_a_model_out(case):
    how = METHODS[case.method]
    if "weight" not in declared(how.options):
        return
    words = sources(case, 3)
    p = case.parameters(3, (0.5, 0.0, 1.0))
    used = [i for i in range(len(words)) if i != 1]
    assert how.copied(p) is None
    assert list(how.used(p)) == used
    made = case.decide(words, (0.5, 0.0, 1.0))
    assert made.combine.coefficients[1] == 0
    rest = case.decide([words[i] for i in used], (0.5, 1.0))
    assert rest.combine.coefficients == tuple(made.combine.coefficients[i] for i in used)


@each_case
def test_one_model_is_copied(case):
    how = METHODS[case.method]
    if 1 not in case.n_models:
        return
    p = case.parameters(1, (1.0,))
    changes = case.towards_base or case.options.get("scaling_factor", 1.0) != 1
    assert how.copied(p) == (None if changes else 0)


@named("format", ALL, ids=lambda format: format.name)
@each_case
def test_identical_models_are_their_own_result(case, format):
    """Where the weights sum to one, and nothing moves the result towards the base."""
    if case.towards_base or not case.options.get("normalize", True):
        return
    n = case.n_models[-1]
    model, _ = sources(case, 2, (format,))[:2]
    base = sources(case, 1, (format,), seed=3)[1:]
    weights = [w / sum(UNEQUAL[:n]) for w in UNEQUAL[:n]]
    words = [*[model] * n, *base]
    made = case.decide(words, weights)
    out = np.empty_like(model)
    made.combine.into(words, out)
    found, expected = decode(out, format), decode(model, format)
    if format is F64:
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-16)
    else:
        np.testing.assert_array_equal(found, expected)


@named("format", ALL, ids=lambda format: format.name)
@each_case
def test_models_that_are_their_base_give_the_base(case, format):
    if not case.is_relative:
        return
    n = case.n_models[-1]
    model = sources(case, 1, (format,))[0]
    words = [model] * (n + 1)
    made = case.decide(words)
    out = np.empty_like(model)
    made.combine.into(words, out)
    if format is F64:  # weights like 1/3 add up to one but for rounding
        np.testing.assert_allclose(out, model, rtol=2.0**-52)
    else:
        assert out.tobytes() == model.tobytes()
    assert made.gram is None or made.gram.norms == (0.0,) * n


@each_case
def test_norms_are_those_of_the_models(case):
    n = case.n_models[-1]
    words = sources(case, n)
    made = case.decide(words)
    if made.gram is None:
        return
    values = values_of(words, (F32,))
    models = [x - values[-1] for x in values[:-1]] if case.is_relative else values[:n]
    assert made.gram.norms == pytest.approx([np.linalg.norm(x) for x in models], rel=1e-14)
    cosine = models[0] @ models[1] / (np.linalg.norm(models[0]) * np.linalg.norm(models[1]))
    assert made.angle_deg == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-12)


# --- rows and columns ---


@named("unit", ["row", "column"])
@named("format", ALL, ids=lambda format: format.name)
@named("name", ["slerp, base", "slerp, towards", "model_stock", "model_stock, towards"])
def test_rows_and_columns_are_made_as_each_alone(name, format, unit):
    """Each element is the nearest of its type to the sum with the coefficients of its row or column."""
    case, rows, width = CASES[name], 10, 15
    if unit == "column" and case.method != "slerp":
        return
    how, n = METHODS[case.method], case.n_models[-1]
    words, p = sources(case, n, (format,)), case.parameters(n)
    length, apply = (width, by_row) if unit == "row" else (rows, by_column)
    steps = apply(lambda: how.start(p, Unit("w", length, length)), width)
    made = drive(steps, lambda: [[each[start : start + 75] for each in words] for start in (0, 75)])
    out = np.empty_like(words[0])
    for start in (0, 75):
        here = slice(start, start + 75)
        assert made.combine.into([each[here] for each in words], out[here]) == 0
    matrices = [each.reshape(rows, width) for each in (*words, out)]
    for i in range(rows if unit == "row" else width):
        *vectors, found = [np.ascontiguousarray(m[i] if unit == "row" else m[:, i]) for m in matrices]
        coefficients = case.decide(vectors).combine.coefficients
        if unit == "column":  # whose inner products are added in another order
            own = made.combine.coefficients[i].tolist()
            assert own == pytest.approx(coefficients, rel=1e-12, abs=1e-14)
            coefficients = own
        sums = exact_sums([decode(each, format) for each in vectors], coefficients)
        assert decode(found, format).tolist() == [nearest(each, format) for each in sums]
    made = made.after() if made.after else made
    assert made.rule == f"{case.method}, by {unit}"
    assert made.gram.norms == pytest.approx(case.decide(words).gram.norms, rel=1e-13)


# --- numbers at the ends of float64 ---


@named("scale", [2.0**600, 2.0**1000, 2.0**-450, 2.0**-600])
@each_case
def test_float64_numbers_of_any_size(case, scale):
    """Squares over- or underflow; the coefficients are those of ordinary numbers."""
    n = case.n_models[-1]
    if scale < 2.0**-500 and case.method != "slerp":
        return  # counts as zero
    words = sources(case, n, (F64,))
    ordinary = case.decide(words).combine.coefficients
    scaled = case.decide([each * scale for each in words]).combine.coefficients
    assert scaled == pytest.approx(ordinary, rel=1e-13)
    passes = METHODS[case.method].passes(case.parameters(n))
    assert passes[0] <= passes[1] <= 4


# Many rows by one call.


@named("towards_base", [0.0, 0.3])
@named("n", [2, 3, 5])
def test_rows_that_are_decided_by_one_call_are_decided_as_each_alone(n, towards_base):
    """Among them rows without a difference, with one alone, opposite, tiny and huge ones."""
    width, p = 40, ModelStockParameters(n, towards_base)
    rng = np.random.default_rng(n)
    base = rng.normal(0, 1, (9, width))
    common = rng.normal(0, 1, (9, width))
    models = [base + 0.1 * (common + rng.normal(0, 1, base.shape)) for _ in range(n)]
    for each, sign in zip(models, [1, -1] * n, strict=False):
        each[0] = base[0]
        each[1] = base[1] + sign * common[1]
        each[2], each[3], each[4] = 1e-160 * each[2], 1e-230 * each[3], 1e200 * each[4]
    base[2:5] = 0.0
    models[0][5] = base[5]
    words = [np.ascontiguousarray(each).reshape(-1) for each in (*models, base)]
    unit = Unit("w", width, width)
    results, reports = [], []
    for at_once in (None, MODEL_STOCK.many(p)):
        made = drive(by_row(lambda: model_stock(p, unit), width, at_once), lambda: [words])
        out = np.empty_like(words[0])
        assert made.combine.into(words, out) == 0
        results.append(out)
        reports.append(made.after() if made.after else made)
    np.testing.assert_array_equal(*results)
    assert reports[0].rule == reports[1].rule
    assert reports[0].gram == reports[1].gram


def test_without_the_base_nothing_is_decided_by_one_call():
    assert MODEL_STOCK.many(WithoutBase(2)) is None
    assert METHODS["linear"].many(None) is None
