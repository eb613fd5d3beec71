"""A method applied to one unit in chunks, to many small ones at once, to rows and columns: the same bits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.kernels import Table, Words
from fusion_slerp.methods.linear import LINEAR, LinearParameters
from fusion_slerp.methods.method import Unit
from fusion_slerp.methods.slerp import SLERP, SlerpParameters
from fusion_slerp.passes.chords import Chords
from fusion_slerp.passes.clipping import Clipped
from fusion_slerp.passes.gram import Gram
from fusion_slerp.passes.magnitude import LargestMagnitude
from fusion_slerp.passes.many import combine_many, drive_many
from fusion_slerp.passes.protocols import CountingCombine, Made, NotFiniteError, Steps, drive
from fusion_slerp.passes.units import by_column, by_row
from fusion_slerp.passes.weighted_sum import WeightedSum
from tests.reference import BF16, F32, F64, FORMATS, Format, decode, encode, round_to

named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}
ALL = list(FORMATS.values())

HALFWAY = SlerpParameters(0.3, 0.9995, 1e-8)
EXACT = SlerpParameters(0.3, 1.0, 0.0)
"""With all passes: chords for small angles, float64 vectors of any magnitude."""


UNIT = Unit("w", 50, 50)
"""Neither method makes use of it."""


def slerp(parameters: SlerpParameters) -> Steps:
    return SLERP.steps(parameters, UNIT)


def linear(parameters: LinearParameters) -> Steps:
    return LINEAR.steps(parameters, UNIT)


def words(values: np.ndarray, format: Format) -> np.ndarray:
    flat = np.ascontiguousarray(values, np.float64).reshape(-1)
    return encode(round_to(flat, format), format).view(BY_NAME[format.name].word)


def asked_by(steps: Steps, of: Words) -> tuple[list[type], Made]:
    """The measures that a method requests, and its decision."""
    kinds: list[type] = []

    def noting() -> Steps:
        measure = next(steps)
        while True:
            kinds.append(type(measure))
            try:
                measure = steps.send((yield measure))
            except StopIteration as end:
                return end.value

    return kinds, drive(noting(), lambda: (of,))


def pairs(format: Format) -> dict[str, Words]:
    """Small pairs, each of a different kind."""
    rng = np.random.default_rng(7)
    a, b = rng.normal(0, 0.02, (2, 50))
    found = {
        "ordinary": (a, b),
        "one element": (a[:1], b[:1]),
        "null": (0 * a, b),
        "nothing": (a[:0], b[:0]),
        "nearly parallel": (a, a + 1e-3 * b),
        "nearly opposite": (a, -3 * a + 1e-3 * b),
        "equal": (a, a),
    }
    if format is F64:
        found |= {"huge": (a * 1e250, b), "tiny": (a * 1e-250, b * 1e-250), "both": (a * 1e300, b * 1e-300)}
    return {name: [words(each, format) for each in pair] for name, pair in found.items()}


# One unit.


def test_the_parts_of_chunks_are_joined():
    of = [words(np.random.default_rng(8).normal(0, 1, 700), F64) for _ in range(2)]
    of_chunks = [[each[start : start + 300] for each in of] for start in (0, 300, 600)]
    made = drive(slerp(EXACT), lambda: of_chunks)
    assert made.gram == Gram().value(
        Gram().part(of_chunks[2]).join(Gram().part(of_chunks[0]).join(Gram().part(of_chunks[1])))
    )


def test_a_method_that_has_begun_is_driven_on():
    of = pairs(F32)["ordinary"]
    steps = slerp(HALFWAY)
    first = next(steps)
    assert drive(steps, lambda: (of,), first) == drive(slerp(HALFWAY), lambda: (of,))


def test_passes_are_asked_for_where_the_values_need_them():
    of = pairs(F64)
    scaling = [Gram, LargestMagnitude, Gram]
    for name, expected in {
        "ordinary": [Gram],
        "null": scaling,
        "nearly parallel": [Gram, Chords],
        "nearly opposite": [Gram, Chords],
        "huge": scaling,
        "tiny": scaling,
    }.items():
        assert asked_by(slerp(EXACT), of[name])[0] == expected, name
        assert asked_by(slerp(HALFWAY), of[name])[0] == (scaling if name == "huge" else [Gram]), name
    assert asked_by(slerp(EXACT), [each * 1e-250 for each in of["nearly parallel"]])[0] == [*scaling, Chords]


# Many units.


def table_of(sets: Sequence[Words], outs: Sequence[np.ndarray] | None = None) -> Table:
    every = [[*of, *([outs[i]] if outs else [])] for i, of in enumerate(sets)]
    rows = [[arrays[0].size, *(array.ctypes.data for array in arrays)] for arrays in every]
    return Table(np.array(rows, np.int64), tuple(array.dtype.name for array in every[0]))


@named("parameters", [HALFWAY, EXACT], ids=["defaults", "exact"])
@named("format", ALL, **by_name)
def test_many_units_are_decided_and_written_as_each_alone(format, parameters):
    sets = list(pairs(format).values())
    made = drive_many([slerp(parameters) for _ in sets], table_of(sets), lambda i: sets[i])
    assert made == [drive(slerp(parameters), lambda of=of: (of,)) for of in sets]
    outs = [np.empty_like(of[0]) for of in sets]

    def unexpected(i: int):
        raise AssertionError("sums are written in one call")

    assert combine_many(made, table_of(sets, outs), unexpected) == [0] * len(sets)
    for each, of, out in zip(made, sets, outs, strict=True):
        expected = np.empty_like(out)
        each.combine.into(of, expected)
        assert out.tobytes() == expected.tobytes()


@named("towards_base", [0.0, 0.3])
@named("format", ALL, **by_name)
def test_many_units_of_differences_are_decided_and_written_as_each_alone(format, towards_base):
    parameters = SlerpParameters(0.3, 0.9995, 1e-8, True, towards_base)
    rng = np.random.default_rng(11)
    sets = []
    for of in pairs(format).values():
        base = words(rng.normal(0, 0.02, 50)[: of[0].size], format)
        sets.append([*of, base])
    made = drive_many([slerp(parameters) for _ in sets], table_of(sets), lambda i: sets[i])
    assert made == [drive(slerp(parameters), lambda of=of: (of,)) for of in sets]
    outs = [np.empty_like(of[0]) for of in sets]
    assert combine_many(made, table_of(sets, outs), lambda i: (sets[i], outs[i])) == [0] * len(sets)
    for each, of, out in zip(made, sets, outs, strict=True):
        assert len(each.combine.coefficients) == 3
        expected = np.empty_like(out)
        each.combine.into(of, expected)
        assert out.tobytes() == expected.tobytes()


def test_units_that_ask_for_nothing_are_not_measured():
    sets = [[words(np.arange(5.0) + i, F32) for i in range(3)] for _ in range(4)]
    parameters = LinearParameters((0.5, 0.25, 0.25))

    def unexpected(i: int):
        raise AssertionError("nothing is measured")

    made = drive_many([linear(parameters) for _ in sets], table_of(sets), unexpected)
    assert made == [Made(WeightedSum((0.5, 0.25, 0.25)), "linear")] * 4


@named("bad", [np.nan, np.inf], ids=str)
def test_only_the_unit_that_is_not_finite_is_refused(bad):
    sets = list(pairs(BF16).values())
    sets[0][1].view(np.uint16)[3] = encode(np.array([bad]), BF16)[0]
    made = drive_many([slerp(HALFWAY) for _ in sets], table_of(sets), lambda i: sets[i])
    assert isinstance(made[0], NotFiniteError)
    assert all(isinstance(each, Made) for each in made[1:])


@dataclass(frozen=True)
class Largest:
    """A combine that is not a weighted sum."""

    def into(self, words: Words, out: np.ndarray, start: int = 0, before: object = None) -> int:
        np.maximum(*words, out=out)
        return int(np.count_nonzero(~np.isfinite(out)))


def largest() -> Steps:
    yield from ()
    return Made(Largest(), "largest")


def test_combines_of_several_kinds_are_called_one_by_one():
    sets = [[words(np.arange(4.0), F32), words(np.arange(4.0)[::-1], F32)] for _ in range(2)]
    outs = [np.zeros(4, np.float32) for _ in sets]
    made = drive_many([linear(LinearParameters((1.0, 1.0))), largest()], table_of(sets), lambda i: sets[i])
    assert combine_many(made, table_of(sets, outs), lambda i: (sets[i], outs[i])) == [0, 0]
    assert [out.tolist() for out in outs] == [[3, 3, 3, 3], [3, 2, 2, 3]]


# Rows and columns.


def driven(steps: Steps, a: np.ndarray, b: np.ndarray, format: Format, rows: int) -> tuple[Made, np.ndarray]:
    """The result of two matrices, a few rows at a time."""
    of, width = [words(a, format), words(b, format)], a.shape[1]
    cuts = range(0, a.size, rows * width)
    of_chunks = [[each[start : start + rows * width] for each in of] for start in cuts]
    made = drive(steps, lambda: of_chunks)
    out = np.empty_like(of[0])
    for chunk, start in zip(of_chunks, cuts, strict=True):
        assert made.combine.into(chunk, out[start : start + rows * width]) == 0
    made = made.after() if made.after else made
    return made, decode(out, format).reshape(a.shape)


def matrices(seed: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Small integers, whose sums are exact: a column of zeros, and equal, opposite and similar ones."""
    a, b = np.random.default_rng(seed).integers(-9, 10, (2, 12, 8)).astype(float)
    a[:, 1] = 0
    b[:, 2] = a[:, 2]
    b[:, 3] = -2 * a[:, 3]
    b[:, 4] = 64 * a[:, 4]
    b[0, 4] += 1
    return a, b


@named("parameters", [HALFWAY, EXACT], ids=["defaults", "exact"])
@named(("format", "scale"), [*((each, 1.0) for each in ALL), (F64, 2.0**-700)], ids=[*FORMATS, "tiny"])
def test_columns_are_made_as_the_rows_of_the_transposed(format, parameters, scale):
    a, b = matrices()
    a[:, 5:], b[:, 6:] = a[:, 5:] * scale, b[:, 6:] * scale
    by_rows, of_rows = driven(by_row(lambda: slerp(parameters), 12), a.T.copy(), b.T.copy(), format, 3)
    by_columns, of_columns = driven(by_column(lambda: slerp(parameters), 8), a, b, format, 5)
    if parameters is HALFWAY:
        np.testing.assert_array_equal(of_columns, of_rows.T)
    else:  # chords are not exact
        np.testing.assert_allclose(of_columns, of_rows.T, rtol=2.0**-(format.fraction_bits))
    assert by_columns.rule.replace("column", "row") == by_rows.rule
    assert by_columns.gram.norms == pytest.approx(by_rows.gram.norms, rel=1e-15)
    assert by_columns.angle_deg == pytest.approx(by_rows.angle_deg, rel=1e-14)


@named("scale", [2.0**600, 2.0**1000], ids=["squares overflow", "huge"])
@named("which", [slice(0, 1), slice(3, 5), slice(None)], ids=["one", "some", "all"])
def test_columns_whose_squares_overflow_are_scaled(which, scale):
    a, b = matrices()
    ordinary = driven(by_column(lambda: slerp(HALFWAY), 8), a, b, F64, 5)[1]
    a[:, which], b[:, which] = a[:, which] * scale, b[:, which] * scale
    expected = ordinary.copy()
    expected[:, which] *= scale
    np.testing.assert_array_equal(driven(by_column(lambda: slerp(HALFWAY), 8), a, b, F64, 5)[1], expected)
    turned = driven(by_row(lambda: slerp(HALFWAY), 12), a.T.copy(), b.T.copy(), F64, 3)[1]
    np.testing.assert_array_equal(turned.T, expected)


@named("unit", ["row", "column"])
@named("bad", [np.nan, np.inf], ids=str)
def test_matrices_that_are_not_finite_are_refused(unit, bad):
    a, b = matrices()
    b[7, 3] = bad
    steps = by_row(lambda: slerp(HALFWAY), 8) if unit == "row" else by_column(lambda: slerp(HALFWAY), 8)
    with pytest.raises(NotFiniteError):
        driven(steps, a, b, F64, 5)


def test_the_most_frequent_rule_is_reported_or_the_first_by_name():
    a = np.array([[1.0, 0], [1, 0], [1, 0], [0, 0]])
    b = np.array([[0.0, 1], [2, 0], [0, 3], [1, 0]])
    for n, rule in ((4, "slerp"), (3, "slerp"), (2, "lerp: nearly parallel")):
        assert driven(by_row(lambda: slerp(HALFWAY), 2), a[:n], b[:n], F64, 2)[0].rule == f"{rule}, by row"
        turned = a[:n].T.copy(), b[:n].T.copy()
        assert driven(by_column(lambda: slerp(HALFWAY), n), *turned, F64, 1)[0].rule == f"{rule}, by column"


def test_columns_that_ask_for_different_passes():
    """Columns that need chords, scaling, or both: no more passes than the method states."""
    rng = np.random.default_rng(10)
    a = rng.normal(0, 1, (40, 6))
    b = a + 1e-4 * rng.normal(0, 1, (40, 6))
    b[:, 5] = rng.normal(0, 1, 40)
    for order in ([0, 1, 2, 3, 4, 5], [3, 0, 1, 4, 2, 5]):
        scale = np.array([1.0, 1.0, 1.0, 1e-200, 1e-250, 1.0])[order]
        x, y = a * scale, b * scale
        kinds, made = asked_by(by_column(lambda: slerp(EXACT), 6), [words(x, F64), words(y, F64)])
        out = np.empty(x.size)
        made.combine.into([words(x, F64), words(y, F64)], out)
        for j in range(6):
            of, expected = [x[:, j].copy(), y[:, j].copy()], np.empty(40)
            drive(slerp(EXACT), lambda of=of: (of,)).combine.into(of, expected)
            np.testing.assert_allclose(out.reshape(40, 6)[:, j], expected, rtol=1e-12)
        assert len(kinds) <= SLERP.passes(EXACT)[1]


def test_a_combine_that_counts_nothing_is_not_asked():
    """Tuples have a method `count`: chunks would wait for each other."""
    combines = [WeightedSum((0.5, 0.5)), Clipped(0.1, 0.5)]
    assert not any(isinstance(combine, CountingCombine) for combine in combines)
