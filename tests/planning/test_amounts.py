"""As many bytes are read as the plan predicts, whatever the tensors and the memory."""

from dataclasses import replace

import numpy as np
import pytest

from fusion_slerp import plan_merge
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.planning.amounts import nbytes_read
from fusion_slerp.planning.plan import MergePlan
from tests.models import write_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def truly_read(plan: MergePlan) -> int:
    return execute(plan, MemorySink(plan))


def with_kept(plan: MergePlan, kept_chunks: int) -> MergePlan:
    return replace(plan, memory=replace(plan.memory, kept_chunks=kept_chunks))


def folders(tmp_path, *models: dict[str, np.ndarray]):
    return [
        write_checkpoint(tmp_path / "abcdefgh"[i], tensors=each, tokens=None) for i, each in enumerate(models)
    ]


def assert_exact(plan: MergePlan) -> None:
    assert truly_read(plan) == plan.nbytes_read <= plan.nbytes_read_most


# Without vocabularies.


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three models: tensors of several chunks in several types, a matrix, integers, and small tensors."""
    models = []
    for seed, types in enumerate((("f2", "f4"), ("f2", "f2"), ("f4", "f2"))):
        rng = np.random.default_rng(seed)
        tensors = {
            f"{i}.long": rng.standard_normal(int(size * CHUNK_ELEMENTS), np.float32).astype(types[i % 2])
            for i, size in enumerate((3.3, 1.001, 2))
        }
        tensors["matrix"] = rng.standard_normal((2500, 1100), np.float32).astype(types[0])
        tensors["ids"] = np.arange(CHUNK_ELEMENTS + 5, dtype=np.int32)
        tensors |= {f"small.{i}": np.ones(i, types[i % 2]) * (seed + 1) for i in range(30)}
        models.append(tensors)
    return folders(tmp_path_factory.mktemp("large"), *models)


@pytest.mark.parametrize("kept", [0, 1, 2, 9])
@pytest.mark.parametrize("granularity", ["tensor", "row", "column"])
def test_tensors_of_several_chunks(large, granularity, kept):
    plan = with_kept(plan_merge(*large[:2], granularity=granularity, threads=2), kept)
    assert_exact(plan)
    assert (plan.nbytes_read > plan.nbytes_in) == (kept < 4)
    assert (plan.nbytes_read_most > plan.nbytes_read) == (kept < 4)


@pytest.mark.parametrize(
    ("weights", "read"),
    [
        ({"a": 1, "b": 2, "c": 3}, "abc"),
        ({"a": 1, "b": 0, "c": 3}, "ac"),
        ({"a": 0, "b": 0, "c": 3}, "c"),
        ({"a": [0, 1], "b": 1, "c": [{"filter": "long", "value": 0}, {"value": 2}]}, None),
    ],
    ids=str,
)
def test_methods_that_measure_nothing_read_once(large, weights, read):
    plan = plan_merge(*large, method="linear", weight=weights, threads=2)
    assert_exact(plan)
    assert plan.nbytes_read == plan.nbytes_read_most == plan.nbytes_in
    if read is not None:
        used = [tensor for tensor in plan.tensors if tensor.out.name != "ids"]
        assert {"".join(tensor.sources) for tensor in used} == {read}


@pytest.mark.parametrize("t", [0, 1])
def test_copies_are_read_once(large, t):
    plan = plan_merge(*large[:2], t=t)
    assert_exact(plan)
    label = "ab"[t]
    assert plan.nbytes_read == sum(entry.nbytes for entry in plan.parents[label].tensors.values())


def test_a_gradient_that_copies_at_its_ends(tmp_path):
    models = [
        {f"model.layers.{i}.w": np.full(CHUNK_ELEMENTS + i, seed + 1.0 + i, "f2") for i in range(3)}
        for seed in range(2)
    ]
    for tensors in models:
        tensors["model.layers.1.w"][::2] *= -1 if tensors is models[0] else 1
    plan = with_kept(plan_merge(*folders(tmp_path, *models), t=[0, 0.5, 1]), 1)
    assert [str(tensor.work) for tensor in plan.tensors] == ["copy a", "merge", "copy b"]
    assert_exact(plan)


@pytest.mark.parametrize("granularity", ["tensor", "row", "column"])
def test_float64_that_is_rescaled_and_small_angles_read_more(tmp_path, granularity):
    """Depending on the values, between the minimum and the maximum."""
    rng = np.random.default_rng(1)
    a = {"matrix": rng.standard_normal((700, 2000)), "other": rng.standard_normal((700, 2000))}
    b = {"matrix": a["matrix"] * 1e-200, "other": a["other"] + 1e-6 * rng.standard_normal((700, 2000))}
    a["matrix"] = rng.standard_normal((700, 2000)) * 1e-200
    both = folders(tmp_path, a, b)
    options = {"granularity": granularity, "DOT_THRESHOLD": 1.0, "epsilon": 0.0}
    for kept in (0, 1, 5):
        plan = with_kept(plan_merge(*both, **options), kept)
        found = truly_read(plan)
        again = 2 * 8 * (2000 * 700 - (0, plan.tensors[0].chunks[0][1], 2000 * 700)[min(kept, 2)])
        passes = 0 if granularity == "row" else 3  # two more to scale one tensor, chords of the other
        assert found == plan.nbytes_read + passes * again
        assert found <= plan.nbytes_read_most


def test_passes_that_differ_between_columns(tmp_path):
    rng = np.random.default_rng(2)
    a = rng.standard_normal((40, 6))
    b = a + 1e-4 * rng.standard_normal((40, 6))
    scale = np.array([1.0, 1.0, 1.0, 1e-200, 1e-250, 1.0])
    both = folders(tmp_path, {"w": a * scale}, {"w": b * scale})
    options = {"granularity": "column", "DOT_THRESHOLD": 1.0, "epsilon": 0.0}
    plan = with_kept(plan_merge(*both, **options), 0)
    assert plan.nbytes_read < truly_read(plan) <= plan.nbytes_read_most


@pytest.mark.parametrize("granularity", ["tensor", "row", "column"])
def test_small_tensors_are_read_once_however_often_they_are_measured(tmp_path, granularity):
    rng = np.random.default_rng(3)
    tensors = [{f"{i}": rng.standard_normal(i) * 1e-200 for i in range(1, 40)} for _ in range(2)]
    plan = plan_merge(*folders(tmp_path, *tensors), epsilon=0, DOT_THRESHOLD=1.0, granularity=granularity)
    assert_exact(plan)
    assert plan.nbytes_read == plan.nbytes_read_most == plan.nbytes_in


def test_what_one_model_lacks_is_copied_or_merged_of_the_others(tmp_path):
    x, y, z = (np.full(CHUNK_ELEMENTS + 1, i + 1.0, "f2") for i in range(3))
    models = [{"all": x, "ab": x, "a": x}, {"all": y, "ab": y, "bc": y}, {"all": z, "bc": z, "c": z}]
    plan = plan_merge(*folders(tmp_path, *models), method="linear", missing="copy")
    owners = {"all": "abc", "ab": "ab", "a": "a", "bc": "bc", "c": "c"}
    assert {tensor.out.name: "".join(tensor.sources) for tensor in plan.tensors} == owners
    assert_exact(plan)


# With rows that follow vocabularies.

WIDTH = 600


def with_vocabulary(folder, seed: int, tokens: list[str], n_rows: int | None = None, dtype: str = "f2"):
    """A model with one row for each token, and some without a token."""
    rng = np.random.default_rng(seed)
    shape = (n_rows or len(tokens), WIDTH)
    tensors = {name: rng.standard_normal(shape, np.float32).astype(dtype) for name in (EMBEDDING, HEAD)}
    tensors["model.norm.weight"] = np.ones(WIDTH, dtype)
    return write_checkpoint(
        folder, tensors=tensors, tokens=tokens, config={"vocab_size": shape[0], "hidden_size": WIDTH}
    )


def words(start: int, stop: int, step: int = 1) -> list[str]:
    return ["<unk>", *(f"w{i}" for i in range(start, stop, step))]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """Owners of every kind; matrices of up to three chunks, with padding in two models."""
    folder = tmp_path_factory.mktemp("vocabularies")
    return [
        with_vocabulary(folder / "a", 1, words(0, 3000)),
        with_vocabulary(folder / "b", 2, words(1000, 4000)[::-1], 3200, "f4"),
        with_vocabulary(folder / "c", 3, words(2, 4200, 2), 2400),
    ]


FILLS = ["owner", "mean", "gradient", "zeros"]


@pytest.mark.parametrize("kept", [0, 1, 9])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("tokenizer", ["union", "a", "b"])
def test_rows_of_two_models(vocabularies, tokenizer, fill, kept):
    plan = plan_merge(*vocabularies[:2], tokenizer=tokenizer, vocab_fill=fill, pad_vocab_to_multiple_of=64)
    assert len(plan.tensors[0].chunks) > 1
    assert_exact(with_kept(plan, kept))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    ("weights", "normalize"),
    [
        ({"a": 1, "b": 2, "c": 3}, True),
        ({"a": 0, "b": 2, "c": 3}, True),
        ({"a": 0, "b": 1, "c": 1}, False),
        ({"a": 0, "b": 2, "c": 3}, False),
    ],
    ids=str,
)
def test_rows_of_three_models(vocabularies, weights, normalize, fill):
    plan = plan_merge(*vocabularies, method="linear", weight=weights, normalize=normalize, vocab_fill=fill)
    assert_exact(plan)


@pytest.mark.parametrize("t", [0, 1])
@pytest.mark.parametrize("fill", FILLS)
def test_rows_that_are_copied(vocabularies, fill, t):
    plan = plan_merge(*vocabularies[:2], t=t, vocab_fill=fill)
    assert {tensor.is_merged for tensor in plan.tensors} == {False}
    assert_exact(plan)


def test_rows_of_a_tied_model(tmp_path):
    """The head of one is its embedding, which is read for both."""
    a = with_vocabulary(tmp_path / "a", 1, words(0, 50))
    rng = np.random.default_rng(2)
    tensors = {EMBEDDING: rng.standard_normal((41, WIDTH), np.float32).astype("f2")}
    tensors["model.norm.weight"] = np.ones(WIDTH, "f2")
    config = {"vocab_size": 41, "hidden_size": WIDTH, "tie_word_embeddings": True}
    b = write_checkpoint(tmp_path / "b", tensors=tensors, tokens=words(20, 60), config=config)
    assert_exact(plan_merge(a, b))


def test_the_bytes_of_a_plan_are_those_of_its_tensors(vocabularies):
    plan = plan_merge(*vocabularies[:2], DOT_THRESHOLD=1.0)
    kept = plan.memory.kept_chunks
    least, most = zip(*(nbytes_read(tensor, plan.settings, kept) for tensor in plan.tensors), strict=True)
    assert (plan.nbytes_read, plan.nbytes_read_most) == (sum(least), sum(most))
