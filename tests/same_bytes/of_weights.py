"""Cases of the arithmetic: types, t, granularity, directions, sizes, extremes."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from tests.same_bytes.case import Case
from tests.same_bytes.parents import both
from tests.same_bytes.weights import (
    CODES,
    Weight,
    Weights,
    llama,
    random_weight,
    random_weights,
    uniform,
    weight,
)

CHUNK = 1 << 20
"""Elements that the package reads at a time. The sums are the same only while this does not change."""

LONG = 5 * CHUNK // 2 + 3
"""Two and a half chunks, and an odd number of elements."""


def types(seed: int) -> Weights:
    """Every pair of types: one tensor for each, of which a has the first type and b the second."""
    pairs = {f"layers.{i}.{'_'.join(pair)}.weight": pair for i, pair in enumerate(product(CODES, CODES))}
    return {name: random_weight(seed, name, (3, 37), pair[seed - 1]) for name, pair in pairs.items()}


def some_wide(seed: int) -> Weights:
    """bfloat16 and float32 in one model, as many store their norms."""
    return llama(seed, "BF16", norms="F32")


def directions(seed: int, code: str = "F32") -> dict[str, Weight]:
    """Vectors of b that are parallel or opposite to those of a, nearly so, or zero."""
    base, other = uniform(7, 96), uniform(8, 96)
    of_b = {
        "same": base,
        "negated": -base,
        "doubled": base * 2,
        "orthogonal": np.concatenate([-base[48:], base[:48]]),
        **{f"near_{i}": base + other * float(f"1e-{i}") for i in (1, 2, 3, 5, 7, 9, 12, 15)},
        **{f"against_{i}": other * float(f"1e-{i}") - base for i in (1, 2, 3, 5, 7, 9, 12, 15)},
        "null_a": base,
        "null_b": base * 0,
        "null_both": base * 0,
        "tiny": other * 1e-10,
    }
    of_a = {name: base * 0 if name in ("null_a", "null_both") else base for name in of_b}
    return {f"{name}.weight": weight(x, code) for name, x in (of_a if seed == 1 else of_b).items()}


def as_matrix(seed: int, code: str = "F32", in_rows: bool = True) -> Weights:
    """`directions` as the rows, or the columns, of one matrix."""
    rows = np.stack([each.words for each in directions(seed, code).values()])
    return {"matrix.weight": Weight(code, np.ascontiguousarray(rows if in_rows else rows.T))}


def spread(n: int, least: int, most: int) -> np.ndarray:
    """A given number of powers of two, in ascending order; numpy's powers depend on the processor."""
    return least + np.arange(n) * (most - least) // (n - 1)


def extremes(seed: int, n: int = 50) -> Weights:
    """Float64 whose squares over- or underflow, so that vectors are scaled before they are measured."""
    values = {name: uniform(seed * 100 + i, n) for i, name in enumerate("abcdef")}
    return {
        "huge.weight": weight(values["a"] * 1e200, "F64"),
        "nearly_infinite.weight": weight(values["b"] * 1e307, "F64"),
        "tiny.weight": weight(values["c"] * 1e-200, "F64"),
        "subnormal.weight": weight(np.ldexp(values["d"], -1065), "F64"),
        "huge_and_tiny.weight": weight(values["e"] * (1e180 if seed == 1 else 1e-180), "F64"),
        "both_in_one.weight": weight(np.ldexp(values["f"], spread(n, -990, 990)), "F64"),
        "usual.weight": weight(values["a"], "F64"),
    }


def near_and_extreme(seed: int) -> Weights:
    """Nearly parallel vectors that are also scaled."""
    base, other = uniform(7, 60), uniform(8, 60)
    of = base if seed == 1 else base + other * 1e-6
    return {
        f"{name}.weight": weight(of * factor, "F64") for name, factor in (("up", 1e200), ("down", 1e-200))
    }


def edges_of_types(seed: int) -> Weights:
    """The largest values and the subnormal ones of the narrower types."""
    x, y = uniform(seed, 64), uniform(seed + 10, 64)
    return {
        "F16.high.weight": weight(x * 40000, "F16"),
        "F16.low.weight": weight(y * 2.0**-15, "F16"),
        "BF16.high.weight": weight(x * 2.0**126, "BF16"),
        "BF16.low.weight": weight(y * 2.0**-127, "BF16"),
        "F32.high.weight": weight(x * 2.0**126, "F32"),
        "F32.low.weight": weight(y * 2.0**-130, "F32"),
    }


def narrowed(seed: int) -> Weights:
    """Float32 around the smallest values of float16, to which it is then rounded."""
    return {"low.weight": weight(np.ldexp(uniform(seed, 333), spread(333, -27, -13)), "F32")}


def long(seed: int, code: str = "BF16", n: int = LONG) -> Weights:
    """One tensor of several chunks between two short ones, so that it begins at an odd offset."""
    shapes = {"layers.0.before.weight": (7,), "layers.1.long.weight": (n,), "layers.2.after.weight": (5,)}
    return random_weights(seed, shapes, code)


def near_long(seed: int) -> Weights:
    """A long tensor of b that is nearly a's."""
    base = uniform(7, LONG)
    return {"long.weight": weight(base if seed == 1 else base + uniform(8, LONG) * 1e-4, "F32")}


def long_extremes(seed: int) -> Weights:
    """Scaled over several chunks."""
    return {"long.weight": weight(uniform(seed, LONG) * 1e-190, "F64")}


def matrices(seed: int, code: str = "BF16", shape: tuple[int, int] = (1361, 1111)) -> Weights:
    """A matrix, of one and a half chunks by default, and others around it."""
    shapes = {"layers.0.norm.weight": (33,), "layers.0.proj.weight": shape, "layers.0.small.weight": (9, 5)}
    return random_weights(seed, shapes, code)


def odd_shapes(seed: int) -> dict[str, Weight]:
    """Shapes without rows and columns, or with one of each."""
    return random_weights(seed, {"experts.weight": (3, 4, 5), "scalar": (), "one.weight": (1, 1)})


def with_empty(seed: int) -> Weights:
    """The same with tensors of no elements."""
    return odd_shapes(seed) | random_weights(seed, {"empty.weight": (0, 4), "empty.bias": (0,)})


def many(seed: int, code: str = "BF16") -> Weights:
    """More small tensors than a batch takes, of all lengths from 0 to 12."""
    return random_weights(seed, {f"layers.{i}.weight": (i * 7 % 13,) for i in range(1500)}, code)


def mixed_many(seed: int) -> Weights:
    """Batches of neighbours whose types take turns."""
    names = {f"layers.{i}.weight": CODES[(i + seed * (i % 3)) % 4] for i in range(120)}
    return {
        name: random_weight(seed, name, (i % 11 + 1,), code) for i, (name, code) in enumerate(names.items())
    }


CURVE = [0, 0.5, 0.3, 0.7, 1]
BY_FILTER = [
    {"filter": "self_attn", "value": CURVE},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
BY_PATTERN = [
    {"glob": "*.mlp.*_proj.weight", "value": [0.1, 0.9]},
    {"regex": r"layers\.[13]\.", "value": 0.25},
    {"filter": "embed", "value": 1},
]
DEEP = both(partial(llama, n_layers=5), config={"num_hidden_layers": 5})
NO_TOKENS = {"tokens": None}
ROWS, COLUMNS = {"granularity": "row"}, {"granularity": "column"}

TYPES = {
    **{f"{code}": Case(both(partial(llama, code=code)), {"t": 0.3}) for code in CODES},
    "every pair": Case(both(types, **NO_TOKENS), {"t": 0.3}),
    **{f"every pair to {d}": Case(both(types, **NO_TOKENS), {"t": 0.3, "dtype": d})
       for d in ("bfloat16", "float16", "float32", "float64")},
    "norms wider": Case(both(some_wide), {"t": 0.5}),
    "norms wider, to float16": Case(both(some_wide), {"t": 0.5, "dtype": "float16"}),
    "edges": Case(both(edges_of_types, **NO_TOKENS), {"t": 0.3}),
    "edges to float64": Case(both(edges_of_types, **NO_TOKENS), {"t": 0.6, "dtype": "float64"}),
    "rounded to subnormals": Case(both(narrowed, **NO_TOKENS), {"t": 0.3, "dtype": "float16"}),
    "wider b": Case(both(partial(llama, code="BF16"), partial(llama, code="F32")), {"t": 0.7}),
}  # fmt: skip

T = {
    "0": Case(both(llama), {"t": 0}),
    "1": Case(both(llama), {"t": 1}),
    "1, wider b": Case(both(partial(llama, code="F16"), partial(llama, code="F32")), {"t": 1}),
    "0 to bfloat16": Case(both(llama), {"t": 0, "dtype": "bfloat16"}),
    "left out": Case(both(llama)),
    "next to 0": Case(both(llama), {"t": 1e-300}),
    "gradient": Case(DEEP, {"t": CURVE}),
    "gradient of two": Case(DEEP, {"t": [0.2, 0.9]}),
    "filters": Case(DEEP, {"t": BY_FILTER}),
    "glob and regex, some unmatched": Case(DEEP, {"t": BY_PATTERN}),
}

DIRECTIONS = {
    "usual": Case(both(directions, **NO_TOKENS), {"t": 0.3}),
    "float64": Case(both(partial(directions, code="F64"), **NO_TOKENS), {"t": 0.3}),
    "chords": Case(both(directions, **NO_TOKENS), {"t": 0.3, "DOT_THRESHOLD": 1}),
    "chords, float64": Case(
        both(partial(directions, code="F64"), **NO_TOKENS), {"t": 0.6, "DOT_THRESHOLD": 1}
    ),
    "never slerp": Case(both(directions, **NO_TOKENS), {"t": 0.3, "DOT_THRESHOLD": 0}),
    "rarely slerp": Case(both(directions, **NO_TOKENS), {"t": 0.3, "DOT_THRESHOLD": 0.5}),
    "no epsilon": Case(both(directions, **NO_TOKENS), {"t": 0.3, "epsilon": 0, "DOT_THRESHOLD": 1}),
    "large epsilon": Case(both(directions, **NO_TOKENS), {"t": 0.3, "epsilon": 6}),
}

GRANULARITY = {
    "row": Case(both(llama), {"t": 0.3} | ROWS),
    "column": Case(both(llama), {"t": 0.3} | COLUMNS),
    "row, bfloat16 to float32": Case(
        both(partial(llama, code="BF16")), {"t": [0.1, 0.8], "dtype": "float32"} | ROWS
    ),
    "column, float16 to bfloat16": Case(
        both(partial(llama, code="F16")), {"t": [0.1, 0.8], "dtype": "bfloat16"} | COLUMNS
    ),
    "rows of all directions": Case(both(as_matrix, **NO_TOKENS), {"t": 0.3} | ROWS),
    "rows of all directions, chords": Case(
        both(partial(as_matrix, code="F64"), **NO_TOKENS), {"t": 0.3, "DOT_THRESHOLD": 1} | ROWS
    ),
    "columns of all directions": Case(
        both(partial(as_matrix, in_rows=False), **NO_TOKENS), {"t": 0.3} | COLUMNS
    ),
    "columns of all directions, chords": Case(
        both(partial(as_matrix, code="F64", in_rows=False), **NO_TOKENS),
        {"t": 0.3, "DOT_THRESHOLD": 1} | COLUMNS,
    ),
    "row, several chunks": Case(both(matrices, **NO_TOKENS), {"t": 0.3} | ROWS),
    "column, several chunks": Case(both(matrices, **NO_TOKENS), {"t": 0.3} | COLUMNS),
    "row, several chunks, float64": Case(both(partial(matrices, code="F64"), **NO_TOKENS), {"t": 0.3} | ROWS),
    "column, several chunks, float64": Case(
        both(partial(matrices, code="F64"), **NO_TOKENS), {"t": 0.3} | COLUMNS
    ),
    "row, wider than a chunk": Case(
        both(partial(matrices, shape=(2, CHUNK + 1)), **NO_TOKENS), {"t": 0.3} | ROWS
    ),
    "row, hardly a matrix": Case(both(odd_shapes, **NO_TOKENS), {"t": 0.3} | ROWS),
    "column, every pair": Case(both(types, **NO_TOKENS), {"t": 0.3} | COLUMNS),
    "row, every pair": Case(both(types, **NO_TOKENS), {"t": 0.3} | ROWS),
    "row, t at both ends": Case(both(llama), {"t": [0, 1]} | ROWS),
}

SIZES = {
    "long": Case(both(long, **NO_TOKENS), {"t": 0.3}),
    "long, float64": Case(both(partial(long, code="F64"), **NO_TOKENS), {"t": 0.3}),
    "long, float64, little memory": Case(
        both(partial(long, code="F64"), **NO_TOKENS), {"t": 0.3, "memory_budget": "200MB"}
    ),
    "long, float32 to bfloat16": Case(
        both(partial(long, code="F32"), **NO_TOKENS), {"t": 0.3, "dtype": "bfloat16"}
    ),
    "long, bfloat16 and float16": Case(both(long, partial(long, code="F16"), **NO_TOKENS), {"t": 0.8}),
    "long, little memory": Case(both(long, **NO_TOKENS), {"t": 0.3, "memory_budget": "47MB"}),
    "long, much memory": Case(both(long, **NO_TOKENS), {"t": 0.3, "memory_budget": "1GB"}),
    "long, through the page cache": Case(both(long, **NO_TOKENS), {"t": 0.3, "direct_io": "off"}),
    "long, chords": Case(both(near_long, **NO_TOKENS), {"t": 0.3, "DOT_THRESHOLD": 1}),
    "long, t = 0 to float16": Case(both(long, **NO_TOKENS), {"t": 0, "dtype": "float16"}),
    "long, t = 1": Case(both(long, **NO_TOKENS), {"t": 1}),
    "one chunk": Case(both(partial(long, n=CHUNK), **NO_TOKENS), {"t": 0.3}),
    "one chunk and one element": Case(both(partial(long, n=CHUNK + 1), **NO_TOKENS), {"t": 0.3}),
    "almost one chunk": Case(both(partial(long, n=CHUNK - 3), **NO_TOKENS), {"t": 0.3}),
    "many small": Case(both(many, **NO_TOKENS), {"t": 0.3}),
    "many small, to float64": Case(both(many, **NO_TOKENS), {"t": 0.3, "dtype": "float64"}),
    "many small, types in turn": Case(both(mixed_many, **NO_TOKENS), {"t": 0.3}),
    "odd shapes": Case(both(with_empty, **NO_TOKENS), {"t": 0.3}),
}

EXTREMES = {
    "usual": Case(both(extremes, **NO_TOKENS), {"t": 0.3}),
    "no epsilon": Case(both(extremes, **NO_TOKENS), {"t": 0.3, "epsilon": 0}),
    "chords": Case(both(near_and_extreme, **NO_TOKENS), {"t": 0.3, "epsilon": 0, "DOT_THRESHOLD": 1}),
    "long": Case(both(long_extremes, **NO_TOKENS), {"t": 0.3, "epsilon": 0}),
}

OF_WEIGHTS = {
    f"{group}: {name}": case
    for group, cases in (
        ("types", TYPES),
        ("t", T),
        ("directions", DIRECTIONS),
        ("granularity", GRANULARITY),
        ("sizes", SIZES),
        ("extremes", EXTREMES),
    )
    for name, case in cases.items()
}
