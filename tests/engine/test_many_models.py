"""Merges of one to eight models: exactly rounded, whatever the order of the models and the threads."""

import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fusion_slerp import CheckpointError, MismatchError, OutputError, SettingsError, plan_merge
from fusion_slerp.api import merge_into_memory, run_in_memory
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine import chunk_work, measuring, row_filler
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.engine.units import Total
from fusion_slerp.passes.gram import Gram, GramOfColumns
from fusion_slerp.planning import resources
from fusion_slerp.planning.plan import MergePlan
from tests.models import write_checkpoint
from tests.reference import F16, F32, F64, Format, exact_sums, nearest, round_to

named = pytest.mark.parametrize
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LABELS = "abcdefgh"


def made(plan: MergePlan) -> dict[str, np.ndarray]:
    sink = MemorySink(plan)
    execute(plan, sink)
    return {name: tensor.numpy() for name, tensor in sink.state_dict().items()}


def rounded(vectors: Sequence[np.ndarray], factors: Sequence[float], format: Format) -> np.ndarray:
    """The value of its type nearest to each exact sum; of two vectors, to that of float64 products."""
    if len(vectors) == 2:
        total = sum(f * x.astype(np.float64) for f, x in zip(factors, vectors, strict=True))
        return round_to(np.asarray(total), format)
    flat = [np.ascontiguousarray(each, np.float64).reshape(-1) for each in vectors]
    return np.array([nearest(total, format) for total in exact_sums(flat, factors)]).reshape(vectors[0].shape)


# Exactly rounded.

TYPES = {"f2": F16, "f4": F32, "f8": F64}


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> tuple[list[Path], list[dict[str, np.ndarray]]]:
    """Small tensors of every type, and one of several chunks that is compared in part."""
    folder, folders, of = tmp_path_factory.mktemp("eight"), [], []
    kinds = ["f2", "f4", "f8"]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        tensors = {
            f"small.{kind}": (0.02 * rng.standard_normal((9, 7))).astype(kinds[(i + seed) % 3])
            for i, kind in enumerate(kinds)
        }
        tensors["same"] = np.linspace(-1, 1, 30, dtype="f4")
        tensors["large"] = (0.02 * rng.standard_normal(2 * CHUNK_ELEMENTS + 5, np.float32)).astype("f2")
        tensors["scalar"] = np.array(seed + 1.0, "f4")
        folders.append(write_checkpoint(folder / LABELS[seed], tensors=tensors, tokens=None))
        of.append(tensors)
    return folders, of


PARTS = [slice(0, 50), slice(CHUNK_ELEMENTS - 25, CHUNK_ELEMENTS + 25), slice(-50, None)]


@named("dtype", [None, "float32", "float64"])
@named("n", [2, 3, 8])
def test_every_element_is_the_nearest_of_its_type_to_the_exact_average(eight, n, dtype):
    folders, of = eight
    weights = [(k + 1) / 8 for k in range(n)]  # divided by their sum, they are not exact
    weight = dict(zip(LABELS, weights, strict=False))
    child = made(plan_merge(*folders[:n], method="linear", weight=weight, dtype=dtype))
    factors = [each / sum(weights) for each in weights]
    for name, found in child.items():
        format = TYPES[found.dtype.str[1:]]
        vectors = [tensors[name] for tensors in of[:n]]
        if name == "large":
            for part in PARTS:
                expected = rounded([each[part] for each in vectors], factors, format)
                np.testing.assert_array_equal(found[part], expected)
        else:
            np.testing.assert_array_equal(found, rounded(vectors, factors, format))


@named("n", [2, 3, 8])
def test_the_bytes_depend_neither_on_the_order_of_the_models_nor_on_the_threads(eight, n):
    folders, _ = eight
    weights = np.random.default_rng(n).normal(1, 1, n).tolist()
    results = set()
    for threads in (1, 2, 3):
        order = np.random.default_rng(threads).permutation(n).tolist()
        weight = {LABELS[k]: weights[i] for k, i in enumerate(order)}
        plan = plan_merge(
            *(folders[i] for i in order), method="linear", weight=weight, threads=threads, dtype="float32"
        )
        child = made(plan)
        results.add(b"".join(child[name].tobytes() for name in sorted(child)))
    assert len(results) == 1


def test_a_model_without_weight_leaves_no_trace(eight):
    """Even if it holds values that cannot be merged."""
    folders, _ = eight
    weight = {"a": 0.25, "b": 0.75}
    two = made(plan_merge(*folders[:2], method="linear", weight=weight))
    three = made(plan_merge(*folders[:3], method="linear", weight=weight | {"c": 0}))
    for name, each in two.items():
        np.testing.assert_array_equal(three[name], each)


@named("n_elements", [20, CHUNK_ELEMENTS + 20])
@named("bad", [np.nan, np.inf], ids=str)
def test_weights_that_are_not_finite_are_refused_though_nothing_is_measured(tmp_path, n_elements, bad):
    tensors = [{"w": np.ones(n_elements, "f4")} for _ in range(3)]
    tensors[1]["w"][-3] = bad
    folders = [
        write_checkpoint(tmp_path / LABELS[i], tensors=each, tokens=None) for i, each in enumerate(tensors)
    ]
    with pytest.raises(CheckpointError, match="NaN or infinity in a weight") as caught:
        made(plan_merge(*folders, method="linear"))
    assert f"b: 1 of {n_elements} elements, first at {n_elements - 3}\n" in str(caught.value)


@named("n_elements", [20, CHUNK_ELEMENTS + 20])
def test_a_sum_beyond_its_type_is_refused(tmp_path, n_elements):
    tensors = {"w": np.full(n_elements, 3e4, "f2")}
    folders = [write_checkpoint(tmp_path / label, tensors=tensors, tokens=None) for label in "abc"]
    with pytest.raises(OutputError, match="overflow to infinity in float16"):
        made(plan_merge(*folders, method="linear", normalize=False))
    made(plan_merge(*folders, method="linear"))


def test_integers_that_differ_in_the_third_model_are_refused(tmp_path):
    folders = [
        write_checkpoint(tmp_path / label, tensors={"ids": np.arange(9) + (label == "c")}, tokens=None)
        for label in "abc"
    ]
    with pytest.raises(MismatchError, match="a tensor must be equal in all models") as caught:
        made(plan_merge(*folders, method="linear"))
    message = str(caught.value)
    for label in "abc":
        assert f"  {label}: {tmp_path / label}" in message
    fix = message.splitlines()[-1]
    assert "t=" not in fix  # no option of this method


# Rows.

WIDTH = 5
TOKENS = {
    "a": ["<unk>", "abc", "ab", "a", "ac", "abc2", "ab2"],
    "b": ["ab", "bc", "<unk>", "abc2", "abc", "b", "ab2"],
    "c": ["c", "<unk>", "ac", "abc", "bc", "c2", "abc2"],
}
OWNERS = {
    token: "".join(label for label in "abc" if token in TOKENS[label]) for t in TOKENS.values() for token in t
}
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.7}


def with_tokens(folder: Path, seed: int, tokens: list[str], dtype: str = "f4") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {name: rng.standard_normal((len(tokens), WIDTH)).astype(dtype) for name in (EMBEDDING, HEAD)}
    tensors["model.norm.weight"] = np.ones(WIDTH, dtype)
    write_checkpoint(folder, tensors=tensors, tokens=tokens, config={"vocab_size": len(tokens)})
    return tensors


@pytest.fixture
def three(tmp_path) -> dict[str, dict[str, np.ndarray]]:
    return {label: with_tokens(tmp_path / label, i, TOKENS[label]) for i, label in enumerate("abc")}


def child_tokens(plan: MergePlan) -> list[str]:
    rows = plan.tokenizer.rows
    return sorted(rows, key=rows.__getitem__)


@named("normalize", [True, False])
@named("threads", [1, 3])
def test_rows_are_averaged_over_the_models_that_have_them(tmp_path, three, normalize, threads):
    """Each set of owners divides by the sum of its own weights; a lone owner's rows are its bytes."""
    plan = plan_merge(
        *(tmp_path / label for label in "abc"),
        method="linear",
        weight=WEIGHTS,
        normalize=normalize,
        threads=threads,
    )
    child, tokens = made(plan), child_tokens(plan)
    assert len(tokens) == len(OWNERS)
    assert set(OWNERS.values()) == {"abc", "ab", "bc", "ac", "a", "b", "c"}
    for name in (EMBEDDING, HEAD):
        assert child[name].shape == (len(tokens), WIDTH)
        for row, token in zip(child[name], tokens, strict=True):
            owners = OWNERS[token]
            vectors = [three[label][name][TOKENS[label].index(token)] for label in owners]
            weights = [WEIGHTS[label] for label in owners]
            if len(owners) == 1:
                expected = vectors[0]
            else:
                total = sum(map(Fraction, weights)) if normalize else 1
                expected = rounded(vectors, [weight / float(total) for weight in weights], F32)
            np.testing.assert_array_equal(row, expected, err_msg=token)


def test_what_is_reported_of_rows(tmp_path, three):
    plan = plan_merge(*(tmp_path / label for label in "abc"), method="linear", weight=WEIGHTS)
    _, reports = run_in_memory(plan)
    (report,) = [each for each in reports if each.name == EMBEDDING]
    n = [len(owners) for owners in OWNERS.values()]
    assert report.rule == "linear"
    assert report.rows.merged == sum(each > 1 for each in n)
    counts = {label: list(OWNERS.values()).count(label) for label in "abc"}
    assert report.rows.copied == counts
    assert report.rows.filled == 0


@named("fill", ["mean", "gradient", "zeros"])
def test_rows_of_one_model_are_filled(tmp_path, three, fill):
    plan = plan_merge(
        *(tmp_path / label for label in "abc"),
        method="linear",
        weight=WEIGHTS,
        vocab_fill=fill,
        dtype="float64",
    )
    child, tokens = made(plan), child_tokens(plan)
    for name in (EMBEDDING, HEAD):
        given = np.array([len(OWNERS[token]) > 1 for token in tokens])
        rows = child[name]
        if fill == "mean":
            expected = np.broadcast_to(rows[given].mean(axis=0), rows.shape)
        elif fill == "zeros":
            expected = np.zeros_like(rows)
        else:
            expected = np.array([between(rows, given, i) for i in range(len(rows))])
        np.testing.assert_allclose(rows[~given], expected[~given], rtol=1e-14)


def between(rows: np.ndarray, given: np.ndarray, i: int) -> np.ndarray:
    """Interpolated between the given rows before and after, wrapping around at the ends."""
    n = len(rows)
    before = next(k for k in range(i, i - n, -1) if given[k % n])
    after = next(k for k in range(i, i + n) if given[k % n])
    first = before if before >= 0 else -1
    last = after if after < n else n
    share = (i - first) / max(last - first, 1)
    return (1 - share) * rows[before % n] + share * rows[after % n]


def test_a_model_without_weight_gives_only_what_nobody_else_has(tmp_path, three):
    plan = plan_merge(
        *(tmp_path / label for label in "abc"), method="linear", weight={"a": 0, "b": 2, "c": 3}
    )
    child, tokens = made(plan), child_tokens(plan)
    for row, token in zip(child[EMBEDDING], tokens, strict=True):
        used = OWNERS[token].replace("a", "") or "a"
        vectors = [three[label][EMBEDDING][TOKENS[label].index(token)] for label in used]
        weights = [{"a": 1, "b": 2, "c": 3}[label] for label in used]
        expected = rounded(vectors, [weight / sum(weights) for weight in weights], F32)
        np.testing.assert_array_equal(row, expected, err_msg=token)


# Threads, memory, resources.


def in_columns(tmp_path, n_rows: int, width: int = 1200, dtype: str = "f2") -> list[Path]:
    folders = []
    for seed, label in enumerate("ab"):
        rng = np.random.default_rng(seed)
        matrix = rng.standard_normal((n_rows, width), np.float32).astype(dtype)
        folder = tmp_path / f"{label}{n_rows}"
        folders.append(write_checkpoint(folder, tensors={"w": matrix}, tokens=None))
    return folders


class Discarding(MemorySink):
    """A sink that discards everything."""

    def __init__(self, plan: MergePlan) -> None:
        pass

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        pass


def test_the_memory_for_columns_does_not_grow_with_their_length(tmp_path, monkeypatch):
    """Chunks are added as they arrive, to sums whose memory does not depend on their number."""
    monkeypatch.setattr("fusion_slerp.chunks.CHUNK_ELEMENTS", 1 << 13)
    largest = []
    original = Total.fold

    def noting(total, part):
        original(total, part)
        parts = getattr(total._folded, "_parts", [])
        sizes.append(sum(each.nbytes for each in parts))

    monkeypatch.setattr(Total, "fold", noting)
    for n_rows in (60, 1200):
        sizes: list[int] = []
        plan = plan_merge(*in_columns(tmp_path, n_rows, dtype="f4"), granularity="column", threads=2)
        execute(plan, Discarding(plan))
        assert len(sizes) == len(plan.tensors[0].chunks) == n_rows // 6
        largest.append(max(sizes))
    assert largest[1] <= 2 * largest[0]


@pytest.fixture
def threads_at_work(monkeypatch) -> dict[str, set[str]]:
    """The names of the threads that measured, summed rows, and wrote."""
    found: dict[str, set[str]] = {"measured": set(), "summed": set(), "combined": set()}

    def noting(owner, name, kind):
        original = getattr(owner, name)

        def noted(*arguments, **keywords):
            found[kind].add(threading.current_thread().name)
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, noted)

    noting(Gram, "part", "measured")
    noting(GramOfColumns, "part", "measured")
    noting(row_filler, "_sum", "summed")
    noting(chunk_work, "_combine", "combined")
    return found


def of_workers(names: set[str]) -> bool:
    return bool(names) and all(name.startswith("fusion_slerp worker") for name in names)


@named("granularity", ["tensor", "column"])
def test_workers_measure_every_chunk(tmp_path, threads_at_work, granularity):
    plan = plan_merge(*in_columns(tmp_path, 4000), granularity=granularity, threads=2)
    execute(plan, MemorySink(plan))
    assert of_workers(threads_at_work["measured"])
    assert of_workers(threads_at_work["combined"])
    threads_at_work["measured"].clear()
    list(measuring.measure(plan))
    assert of_workers(threads_at_work["measured"])


def test_workers_sum_the_rows_of_which_the_mean_is_taken(tmp_path, three, threads_at_work):
    plan = plan_merge(
        *(tmp_path / label for label in "ab"), vocab_fill="mean", pad_vocab_to_multiple_of=64, threads=2
    )
    assert any(tensor.needs_mean("mean") for tensor in plan.tensors)
    execute(plan, MemorySink(plan))
    assert of_workers(threads_at_work["summed"])
    assert of_workers(threads_at_work["measured"])


def test_a_model_that_does_not_fit_into_memory_is_refused(tmp_path, three, monkeypatch):
    plan = plan_merge(*(tmp_path / label for label in "abc"), method="linear")
    enough = plan.memory.nbytes + plan.nbytes_written
    monkeypatch.setattr(resources, "available_memory", lambda: enough)
    state_dict, _ = run_in_memory(plan)
    assert state_dict.keys() == {tensor.out.name for tensor in plan.tensors}
    monkeypatch.setattr(resources, "available_memory", lambda: enough - 1)
    for run in (
        lambda: run_in_memory(plan),
        lambda: merge_into_memory(*(tmp_path / label for label in "abc"), method="linear"),
    ):
        with pytest.raises(SettingsError) as caught:
            run()
        lines = str(caught.value).splitlines()
        assert lines[0] == "not enough memory"
        assert f"{plan.nbytes_written} bytes for the merged model" in lines[1]
        assert lines[2] == f"  free: {enough - 1} bytes"
        assert lines[-1].endswith("or write the merged model to a folder: out='merged'")


def test_measuring_takes_models_of_any_number_and_reads_only_what_is_merged(tmp_path, three):
    """A method that measures nothing has no angles to show."""
    plan = plan_merge(*(tmp_path / label for label in "abc"), method="linear")
    found = list(measuring.measure(plan))
    assert [each.report.name for each in found] == [tensor.out.name for tensor in plan.tensors]
    assert {(each.report.rule, each.report.angle_deg, each.nbytes) for each in found} == {("linear", None, 0)}
    plan = plan_merge(*(tmp_path / label for label in "ab"), t=0.5)
    found = list(measuring.measure(plan))
    _, reports = run_in_memory(plan)
    for each, report in zip(found, reports, strict=True):
        assert (each.report.angle_deg, each.report.norms) == (report.angle_deg, report.norms)
        assert each.report.norms.keys() == {"a", "b"}
        assert each.nbytes > 0
