"""The methods that draw elements, against words in integers, sorting and exact fractions."""

import itertools
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fusion_slerp import SettingsError, make_settings, merge, plan_merge, verify
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.errors import spelled
from fusion_slerp.methods import METHODS
from fusion_slerp.methods.drawing import DrawnParameters
from fusion_slerp.methods.method import Unit, UnusableError
from fusion_slerp.methods.sparse import SparseParameters
from fusion_slerp.options import declared
from fusion_slerp.passes.protocols import Made
from tests.expert_layouts import LAYOUTS, write_experts
from tests.methods import drawing_reference as reference
from tests.methods.selection_reference import (
    assert_nearest,
    assert_table,
    decided,
    differences,
    elected,
    fine_tunes,
    made_masks,
    masks_of,
    sets_of,
    written,
)
from tests.models import contents, names_in, write_checkpoint
from tests.reference import BF16, F16, F32, F64, FORMATS, Format

named = pytest.mark.parametrize
by_name = {"ids": lambda format: format.name}

ELECTING = {"dare_linear": False, "dare_ties": True, "della": True, "della_linear": False}
RANKING = ("della", "della_linear")
NAMES = ("plays", "owner/code", "maths")
N, WIDTH = 1200, 60


def parameters(
    method: str,
    weights=(1.0, 0.5, -0.3),
    densities=(0.5, 0.3, 0.7),
    spreads=(0.15, 0.1, 0.25),
    factor=1.0,
    normalize=False,
    rescale=True,
    seed=0,
) -> DrawnParameters:
    common = SparseParameters(tuple(weights), tuple(densities), factor, normalize, rescale)
    own = tuple(spreads) if method in RANKING else (0.0,) * len(weights)
    return DrawnParameters(common, own, NAMES[: len(weights)], seed)


def kept_by(p: DrawnParameters, tensor: str, deltas: list[np.ndarray], width: int) -> list[set[int]]:
    """The elements that are drawn of each model."""
    kept = []
    for name, density, spread, d in zip(p.names, p.common.densities, p.spreads, deltas, strict=True):
        key = reference.key_of(p.seed, tensor, name)
        is_ranked = spread and 0 < density < 1
        kept.append(
            reference.drawn_by_rank(key, d, width, density, spread)
            if is_ranked
            else reference.drawn(key, d.size, density)
        )
    return kept


def ratio(delta: np.ndarray, kept: set[int]) -> Fraction:
    """The sum of all magnitudes, as float32, to that of what is kept."""
    sizes = [Fraction(float(x)) for x in np.abs(delta.astype(np.float32))]
    part = sum((sizes[j] for j in kept), Fraction())
    return sum(sizes, Fraction()) / part if part else Fraction(1)


def assert_made(method: str, p: DrawnParameters, words: list[np.ndarray], format: Format, size=600) -> Made:
    """Compares masks, coefficients and every element with the reference; the unit has chunks of a size."""
    n, unit = words[0].size, Unit("model.w", words[0].size, WIDTH)
    made = decided(METHODS[method].steps(p, unit), words, size)
    deltas = differences(words, format)
    kept = kept_by(p, unit.name, deltas, WIDTH)
    sets = sets_of(kept, n)
    assert made_masks(made, words, size) == masks_of(sets)
    rescales = p.common.rescale
    factors = [ratio(d, of) if rescales else Fraction(1) for d, of in zip(deltas, kept, strict=True)]
    votes = [Fraction(w) * f for w, f in zip(p.common.weights, factors, strict=True)]

    def row(chosen: list[int]) -> list[Fraction]:
        taking_part = chosen if ELECTING[method] else range(len(votes))
        divisor = sum(Fraction(p.common.weights[i]) for i in taking_part) if p.common.normalize else 1
        return [Fraction(p.common.factor) * votes[i] / (divisor or 1) for i in chosen]

    assert_table(made.combine.table.rows, row)
    taken = elected(sets, deltas, [float(vote) for vote in votes]) if ELECTING[method] else sets
    result, n_bad = written(made, words, size, format)
    assert n_bad == 0
    assert_nearest(result, made.combine.table.rows, taken, words, format)
    return made


# One unit.


@named("method", ELECTING)
@named("format", FORMATS.values(), **by_name)
def test_masks_coefficients_and_elements(format, method):
    assert_made(method, parameters(method), fine_tunes(format, 3, N), format)


CASES: dict[str, dict[str, Any]] = {
    "normalised": {"normalize": True},
    "not rescaled": {"rescale": False},
    "scaled": {"factor": 0.7, "seed": 5},
    "everything of one, nothing of another": {"densities": (1.0, 0.0, 0.4)},
    "everything": {"densities": (1.0, 1.0, 1.0)},
    "nothing": {"densities": (0.0, 0.0, 0.0)},
    "one model": {"weights": (2.0,), "densities": (0.25,), "spreads": (0.2,)},
    "no spread": {"spreads": (0.0, 0.0, 0.0)},
    "weights that cancel": {"weights": (1.0, -1.0, 0.0), "normalize": True},
}


@named("method", ELECTING)
@named("case", CASES)
def test_cases(case, method):
    p = parameters(method, **CASES[case])
    assert_made(method, p, fine_tunes(BF16, len(p.names), N), BF16)


@named("method", ELECTING)
def test_pieces_change_nothing(method):
    words = fine_tunes(F16, 3, N)
    results = []
    for size in (WIDTH, 300, N):
        made = assert_made(method, parameters(method), words, F16, size)
        results.append((made.combine.table.rows.tolist(), written(made, words, size, F16)[0].tolist()))
    assert results[0] == results[1] == results[2]


@named("method", ELECTING)
def test_the_order_of_the_models_changes_nothing(method):
    words = fine_tunes(F32, 3, N)
    p = parameters(method)
    expected = written(decided(METHODS[method].steps(p, Unit("w", N, WIDTH)), words, N), words, N, F32)[0]
    for order in itertools.permutations(range(3)):
        weights, densities = (
            tuple(values[i] for i in order) for values in (p.common.weights, p.common.densities)
        )
        common = replace(p.common, weights=weights, densities=densities)
        turned = DrawnParameters(
            common, tuple(p.spreads[i] for i in order), tuple(p.names[i] for i in order), p.seed
        )
        own = [*(words[i] for i in order), words[-1]]
        made = decided(METHODS[method].steps(turned, Unit("w", N, WIDTH)), own, N)
        np.testing.assert_array_equal(written(made, own, N, F32)[0], expected)


@named("method", ELECTING)
def test_seeds_names_and_tensors_decide_what_is_kept(method):
    words = fine_tunes(F32, 3, N)
    steps = METHODS[method].steps
    p = parameters(method)
    units = [(p, "w"), (parameters(method, seed=1), "w"), (p, "v")]
    found = [
        made_masks(decided(steps(each, Unit(name, N, WIDTH)), words, N), words, N) for each, name in units
    ]
    for one, other in itertools.combinations(found, 2):
        share = np.mean([a == b for a, b in zip(one, other, strict=True)])
        assert share < 0.35, "of masks of three models that are equal: 0.2 by chance"


@named("method", RANKING)
def test_large_differences_are_kept_more_often(method):
    words = fine_tunes(F32, 1, 6000)
    p = parameters(method, (1.0,), (0.5,), (0.4,))
    kept = np.array(
        made_masks(decided(METHODS[method].steps(p, Unit("w", 6000, 60)), words, 6000), words, 6000)
    )
    size = np.abs(differences(words, F32)[0])
    large = size > np.median(size)
    assert kept[large].mean() > 0.6 > 0.4 > kept[~large & (size > 0)].mean()


@named("method", ELECTING)
def test_a_model_that_is_the_base_adds_nothing(method):
    a, base = fine_tunes(F64, 1, N)
    one = parameters(method, (1.0,), (0.5,), (0.15,))
    two = parameters(method, (1.0, 0.5), (0.5, 0.5), (0.15, 0.15))
    unit = Unit("w", N, WIDTH)
    alone = written(decided(METHODS[method].steps(one, unit), [a, base], N), [a, base], N, F32)[0]
    both = written(decided(METHODS[method].steps(two, unit), [a, base, base], N), [a, base, base], N, F32)[0]
    np.testing.assert_array_equal(alone, both)


@named(
    ("more", "n"),
    [
        ({}, 1),
        ({"rescale": False}, 0),
        ({"densities": (1.0, 0.0, 1.0)}, 0),
        ({"densities": (1.0, 0.0, 0.5)}, 1),
    ],
)
@named("method", ELECTING)
def test_passes(method, more, n):
    p = parameters(method, **more)
    assert METHODS[method].passes(p) == (n, n)
    steps, measured = METHODS[method].steps(p, Unit("w", N, WIDTH)), 0
    words = fine_tunes(F32, 3, N)
    try:
        measure = next(steps)
        while True:
            measured += 1
            measure = steps.send(measure.value(measure.part(words, 0)))
    except StopIteration:
        assert measured == n


# Options.

DEFAULTS = {
    "dare_linear": (False, True),
    "dare_ties": (False, True),
    "della": (True, True),
    "della_linear": (False, True),
}


@named("method", ELECTING)
def test_defaults_are_those_of_mergekit(method):
    options = make_settings(method=method).options
    assert (options["normalize"], options["rescale"]) == DEFAULTS[method]
    assert (options["density"], options["weight"], options["seed"], options["names"]) == (1.0, 1.0, 0, None)
    assert ("epsilon" in declared(METHODS[method].options)) == (method in RANKING)
    assert options.get("epsilon", 0.15) == 0.15


def usable(method: str, density: float, epsilon: float = 0.15) -> DrawnParameters:
    how = METHODS[method]
    values = {"density": {"a": density, "b": 0.5}, "epsilon": {"a": epsilon, "b": 0.1}}
    if method not in RANKING:
        del values["epsilon"]
    return how.parameters(how.options(), {"weight": {"a": 1.0, "b": 1.0}, **values}, ("a", "b", "base"))


@named(
    ("density", "epsilon"), [(0.1, 0.15), (0.15, 0.15), (0.95, 0.15), (0.85, 0.15), (0.5, 0.5), (1e-6, 1e-4)]
)
@named("method", RANKING)
def test_probabilities_outside_their_range_are_refused(method, density, epsilon):
    usable("dare_linear", density)
    with pytest.raises(UnusableError) as caught:
        usable(method, density, epsilon)
    assert str(caught.value).startswith(
        "density - epsilon and density + epsilon must be inside (0, 1): a (density"
    )
    proposed = re.search(r"epsilon=(\S+),", spelled(caught.value.fix, "python"))
    assert proposed is not None
    usable(method, density, float(proposed[1]))


@named("density", [0.0, 1.0])
@named("method", ELECTING)
def test_all_and_nothing_are_taken_whatever_epsilon_is(method, density):
    p = usable(method, density)
    assert p.common.densities[0] == density


@named("seed", [-1, 0.5, "1", None, True, float("nan")])
def test_seeds_that_are_refused(seed):
    with pytest.raises(SettingsError, match="invalid seed"):
        make_settings(method="dare_ties", seed=seed)


# Whole merges.

SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (40, 30),
    "model.norm.weight": (70,),
    "scalar": (),
    "empty": (0, 4),
}
WEIGHT = {"a": 1.0, "b": 0.5, "c": -0.3}
DENSITY = {"a": 0.5, "b": 0.3, "c": 0.7}


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> dict[str, Path]:
    """Three models and their base; read-only."""
    return write_family(tmp_path_factory.mktemp("family"), SHAPES)


def write_family(folder: Path, shapes: dict[str, tuple[int, ...]], **more: Any) -> dict[str, Path]:
    of = {name: fine_tunes(F16, 3, int(np.prod(shape)), seed=len(name)) for name, shape in shapes.items()}
    return {
        label: write_checkpoint(
            folder / label,
            tensors={name: of[name][i].view(np.float16).reshape(shape) for name, shape in shapes.items()},
            **more,
        )
        for i, label in enumerate(("a", "b", "c", "base"))
    }


def merged(
    family: dict[str, Path], out: Path, method: str, order: str = "abc", **more: Any
) -> dict[str, bytes]:
    """The tensors of a merge, whose models may come in another order, with their own values."""
    weight, density = ({"abc"[i]: of[label] for i, label in enumerate(order)} for of in (WEIGHT, DENSITY))
    options = {"weight": weight, "density": density, **more}
    merge(*(family[label] for label in order), base=family["base"], out=out, method=method, **options)
    files = sorted(out.glob("*.safetensors"))
    return {name: each.tobytes() for file in files for name, each in load_file(file).items()}


@named("method", ELECTING)
def test_threads_files_and_order_change_no_byte(tmp_path, family, method):
    expected = merged(family, tmp_path / "one", method, threads=1)
    for i, (threads, order, size) in enumerate(((2, "cab", "5GB"), (3, "abc", 1500), (1, "bca", 300))):
        found = merged(family, tmp_path / f"{i}", method, order, threads=threads, max_shard_size=size)
        assert found == expected
    others = merged(family, tmp_path / "others", method, seed=1)
    assert {name for name in expected if others[name] != expected[name]} >= {*list(SHAPES)[:2]}
    result = verify(tmp_path / "one", recompute="all", models=family)
    assert result.ok, str(result)


@named("method", ELECTING)
def test_a_tensor_is_the_same_alone_and_among_others(tmp_path, family, method):
    expected = merged(family, tmp_path / "all", method)
    name = next(iter(SHAPES))
    alone = write_family(tmp_path / "alone", {name: SHAPES[name]}, config={"num_hidden_layers": 1})
    assert merged(alone, tmp_path / "child", method) == {name: expected[name]}


@named("method", ELECTING)
def test_what_is_written_is_what_the_units_make(tmp_path, family, method):
    merged(family, tmp_path / "child", method)
    child = load_file(tmp_path / "child/model.safetensors")
    options: dict[str, Any] = {"method": method, "density": DENSITY, "weight": WEIGHT}
    settings = plan_merge(*(family[label] for label in "abc"), base=family["base"], **options).settings
    epsilon = {"epsilon": dict.fromkeys("abc", 0.15)} if method in RANKING else {}
    values = {"weight": WEIGHT, "density": DENSITY, **epsilon}
    p = METHODS[method].parameters(settings.parameters, values, ("a", "b", "c", "base"))
    assert p.names == ("a", "b", "c")
    for name, shape in SHAPES.items():
        of = [load_file(family[label] / "model.safetensors")[name] for label in ("a", "b", "c", "base")]
        words = [each.reshape(-1).view(np.int16) for each in of]
        n = words[0].size
        made = decided(
            METHODS[method].steps(p, Unit(name, n, shape[-1] if len(shape) > 1 else n)), words, 10**6
        )
        result, _ = written(made, words, 10**6, F16)
        np.testing.assert_array_equal(child[name].reshape(-1).view(np.int16), result, name)


@pytest.mark.long
@named("method", RANKING)
def test_rows_that_are_longer_than_a_chunk(tmp_path, method):
    """The engine's pieces, those of a merge in memory, and one piece are ranked in the same parts."""
    name, shape = "model.layers.0.mlp.up_proj.weight", (2, CHUNK_ELEMENTS + 1000)
    family = write_family(tmp_path / "models", {name: shape})
    expected = merged(family, tmp_path / "one", method, threads=1)
    assert merged(family, tmp_path / "three", method, threads=3) == expected
    of = {
        label: {name: torch.from_numpy(load_file(f / "model.safetensors")[name])}
        for label, f in family.items()
    }
    options: dict[str, Any] = {"method": method, "density": DENSITY, "weight": WEIGHT}
    settings = make_settings(**options, names=dict(zip("abc", "abc", strict=True)))
    values = {"density": DENSITY, "weight": WEIGHT, "epsilon": dict.fromkeys("abc", 0.15)}
    made, _ = combine_tensors({label: each[name] for label, each in of.items()}, settings, name, values)
    assert made.numpy().tobytes() == expected[name]


@named("method", ELECTING)
def test_rows_in_another_order_are_drawn_by_the_merged_model_s_index(tmp_path, method):
    """A permuted vocabulary changes nothing."""
    tokens = ("<unk>", "to", "be", "or", "not", "##s")
    order = [0, 3, 5, 1, 4, 2]
    name = "model.embed_tokens.weight"
    of = [each.reshape(6, 20) for each in fine_tunes(F32, 2, 120)]
    results = []
    for case, permuted in enumerate(((), ("b", "base"))):
        folders = {}
        for label, rows in zip(("a", "b", "base"), of, strict=True):
            turn = order if label in permuted else range(6)
            folders[label] = write_checkpoint(
                tmp_path / f"{case}" / label,
                tensors={name: rows[list(turn)], "lm_head.weight": rows[list(turn)]},
                tokens=[tokens[i] for i in turn],
                config={"hidden_size": 20},
            )
        merge(
            folders["a"],
            folders["b"],
            base=folders["base"],
            out=tmp_path / f"child{case}",
            method=method,
            density=0.5,
        )
        results.append(contents(tmp_path / f"child{case}")["model.safetensors"])
    assert results[0] == results[1]


@named("method", ELECTING)
def test_matrices_whose_elements_are_in_another_order_are_refused(tmp_path, method):
    folders = [
        write_experts(tmp_path / label, seed, "gpt_oss", LAYOUTS["gpt_oss"][1])
        for seed, label in enumerate(("a", "b", "base"), 1)
    ]
    with pytest.raises(SettingsError) as caught:
        merge(*folders[:2], base=folders[2], out=tmp_path / "child", method=method, density=0.5)
    assert f"{method} where experts are transposed or alternate" in str(caught.value)
    assert "Fix: give a model first that stores a tensor for each matrix" in str(caught.value)
    assert names_in(tmp_path) == ["a", "b", "base"]
