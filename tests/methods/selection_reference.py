"""The slow, obvious reference of methods that select elements: sorting, and exact fractions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.kernels import Words
from fusion_slerp.passes.protocols import Counted, Counter, CountingCombine, Made, Steps, drive
from tests.reference import F64, Format, decode, encode, nearest, round_to

Sets = list[list[int]]
"""For each element, the models that are selected."""


def words_of(values: np.ndarray, format: Format) -> np.ndarray:
    """The words of values, each rounded to the type."""
    return encode(round_to(values, format), format).view(BY_NAME[format.name].word)


def fine_tunes(format: Format, n_models: int, n: int, seed: int = 0) -> list[np.ndarray]:
    """The words of models and their base: many differences are equal, some are zero, some are large.

    The base has positive and negative numbers over several binades, and zeros.
    """
    rng = np.random.default_rng(seed)
    base = round_to(rng.normal(0, 0.02, n) * 2.0 ** rng.integers(-6, 1, n), format)
    base[rng.random(n) < 0.02] = 0.0
    step = 2.0**-13
    models = []
    for _ in range(n_models):
        change = np.where(rng.random(n) < 0.7, rng.integers(-6, 7, n) * step, rng.normal(0, 0.003, n))
        models.append(words_of(base + change, format))
    return [*models, words_of(base, format)]


def differences(words: Sequence[np.ndarray], format: Format) -> list[np.ndarray]:
    """The models' float64 differences from the base, the last."""
    *models, base = (decode(each, format) for each in words)
    return [model - base for model in models]


def largest(difference: np.ndarray, k: int) -> set[int]:
    """The indexes of the k largest magnitudes, as float32; of equal ones, the lower indexes."""
    with np.errstate(over="ignore"):
        order = np.argsort(-np.abs(difference.astype(np.float32)), kind="stable")
    return set(order[:k].tolist())


def sets_of(chosen: Sequence[set[int]], n: int) -> Sets:
    """The models of each element, from the elements of each model."""
    return [[i for i, of_model in enumerate(chosen) if j in of_model] for j in range(n)]


def elected(sets: Sets, deltas: Sequence[np.ndarray], votes: Sequence[float]) -> Sets:
    """The models of each element whose vote times difference has the sign of the exact sum."""
    result = []
    for j, models in enumerate(sets):
        terms = {i: Fraction(votes[i]) * Fraction(float(deltas[i][j])) for i in models}
        sign = 1 if sum(terms.values()) >= 0 else -1
        result.append([i for i, term in terms.items() if term * sign > 0])
    return result


def spread(words: Sequence[np.ndarray], format: Format) -> np.ndarray:
    """The sum of squared differences between every two models, as float32; exact before for 16-bit types."""
    models = [decode(each, format) for each in words[:-1]]
    return np.array(
        [
            np.float32(sum(((x[j] - y[j]) ** 2 for x, y in combinations(models, 2)), 0.0))
            for j in range(models[0].size)
        ]
    )


def masks_of(sets: Sets) -> list[int]:
    """Sets as masks."""
    return [sum(1 << i for i in models) for models in sets]


def assert_table(table: np.ndarray, exactly: Callable[[list[int]], Sequence[Fraction]]) -> None:
    """Every coefficient is within 1e-12 of the exact one; with the base's, each row sums to one."""
    n = table.shape[1] - 1
    for mask, row in enumerate(table.tolist()):
        chosen = [i for i in range(n) if mask >> i & 1]
        wanted = dict(zip(chosen, exactly(chosen), strict=True))
        for i in range(n):
            expected = wanted.get(i, Fraction(0))
            assert abs(Fraction(row[i]) - expected) <= Fraction(1, 10**12) * max(1, abs(expected)), (mask, i)
        base = 1 - sum(wanted.values(), Fraction(0))
        assert abs(Fraction(row[n]) - base) <= Fraction(1, 10**12) * max(1, abs(base)), mask


def assert_nearest(
    result: np.ndarray,
    table: np.ndarray,
    sets: Sets,
    words: Sequence[np.ndarray],
    format: Format,
    out: Format | None = None,
) -> None:
    """Each word is the value of its type nearest to the sum of coefficient times element.

    In float64, it may be either of two neighbours at almost the same distance: sums have 106 bits.
    """
    values = [decode(each, format).tolist() for each in words]
    for j, (mask, found) in enumerate(
        zip(masks_of(sets), decode(result, out or format).tolist(), strict=True)
    ):
        terms = (Fraction(c) * Fraction(of[j]) for c, of in zip(table[mask].tolist(), values, strict=True))
        exact = sum(terms, Fraction())
        expected = nearest(exact, out or format)
        is_as_near = abs(exact - Fraction(found)) <= abs(exact - Fraction(expected)) * (
            1 + Fraction(1, 2**40)
        )
        assert found == expected or ((out or format) is F64 and is_as_near), (j, mask, found, expected)


def chunks_of(words: Words, size: int) -> Iterator[list[np.ndarray]]:
    """The words in chunks of a size; one empty chunk if there is nothing."""
    for start in range(0, max(words[0].size, 1), size):
        yield [each[start : start + size] for each in words]


def decided(steps: Steps, words: Words, size: int) -> Made:
    """The decision of a method for a unit that is measured in chunks."""
    return drive(steps, lambda: chunks_of(words, size))


def made_masks(made: Made, words: Words, size: int) -> list[int]:
    """The masks of a selection, chunk by chunk, as the engine counts."""
    selection = made.combine.selection  # pyright: ignore[reportAttributeAccessIssue]
    masks, before, start, counter = [], None, 0, selection.counter()
    for chunk in chunks_of(words, size):
        counted, before = counted_in(counter, chunk, before)
        masks += selection.masks(chunk, start, counted).tolist()
        start += chunk[0].size
    return masks


def counted_in(
    counter: Counter | None, chunk: Words, before: np.ndarray | None
) -> tuple[Counted | None, np.ndarray | None]:
    """What is counted in a chunk, and the counts before the next chunk, as the engine has them."""
    if counter is None:
        return None, None
    counts = counter(chunk, before)
    counted = Counted(counts, np.zeros_like(counts) if before is None else before)
    return counted, counted.before + counts


def written(made: Made, words: Words, size: int, out: Format) -> tuple[np.ndarray, int]:
    """The words that a combine writes chunk by chunk, as the engine counts; and how many are not finite."""
    result = np.empty(words[0].size, BY_NAME[out.name].word)
    combine, before, start, n_bad = made.combine, None, 0, 0
    counter = combine.counter() if isinstance(combine, CountingCombine) else None
    for chunk in chunks_of(words, size):
        counted, before = counted_in(counter, chunk, before)
        n_bad += combine.into(chunk, result[start : start + chunk[0].size], start, counted)
        start += chunk[0].size
    return result, n_bad
