"""Vocabularies that differ: which rows are merged, which copied from whom, and what follows from it.

The expected rows are computed here from the tokens, one by one, with nothing of the package but `slerp`.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import MismatchError, merge, plan_merge, slerp
from fusion_slerp.merging import merge_into_memory
from fusion_slerp.rows import RowRun, align_rows
from tests.models import tiny_tensors, tokenizer_json, write_checkpoint, write_json

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
WORDS = [f"w{i}" for i in range(30)]
T = 0.3


def parent(folder, seed: int, tokens: list[str], n_rows: int, width: int = 8):
    """A checkpoint with a tokenizer of these tokens, in their order, and so many rows."""
    rng = np.random.default_rng(seed)
    tensors = tiny_tensors(seed) | {
        name: rng.standard_normal((n_rows, width)).astype("f4") for name in (HEAD, EMBEDDING)
    }
    write_checkpoint(folder, tensors=tensors, config={"vocab_size": n_rows}, tokens=None)
    write_json(folder / "tokenizer.json", tokenizer_json(tokens))
    return folder, tensors, {token: row for row, token in enumerate(tokens)}


def expected_rows(name: str, child_tokens: list[str], n_rows: int, a, b) -> np.ndarray:
    """Row by row: both have the token, one has it, or nobody (padding, of the parent that has the row)."""
    (_, tensors_a, rows_a), (_, tensors_b, rows_b) = a, b
    of_a, of_b = tensors_a[name], tensors_b[name]
    shared, expected = [], np.empty((n_rows, of_a.shape[1]), "f4")
    for row in range(n_rows):
        token = child_tokens[row] if row < len(child_tokens) else None
        in_a = row < len(of_a) and (token is None or rows_a.get(token) == row)
        in_b = row < len(of_b) and (token is None or rows_b.get(token) == row)
        if token is None:  # beside a row that holds a token in one parent, padding is not merged
            in_b = in_b and row not in rows_b.values() and in_a
        if in_a and in_b and (not shared or shared[-1] == row - 1):
            shared.append(row)
        expected[row] = of_a[row] if in_a else of_b[row] if row < len(of_b) else of_a[row]
    expected[shared] = slerp(T, of_a[shared], of_b[shared])
    return expected


CASES = {
    "equal": (WORDS, 30, WORDS, 30),
    "b has one more": (WORDS[:29], 29, WORDS, 30),
    "b has many more": (WORDS[:10], 10, WORDS, 30),
    "a has more": (WORDS, 30, WORDS[:25], 25),
    "a is padded": (WORDS, 40, WORDS, 30),
    "b is padded": (WORDS, 30, WORDS, 40),
    "both are padded alike": (WORDS, 40, WORDS, 40),
    "b's tokens lie in a's padding": (WORDS[:25], 40, WORDS, 30),
    "b's tokens lie in the padding of both": (WORDS[:25], 40, WORDS, 40),
    "a's tokens lie in b's padding": (WORDS, 30, WORDS[:25], 40),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_the_child(tmp_path, case):
    tokens_a, n_a, tokens_b, n_b = CASES[case]
    a, b = parent(tmp_path / "a", 1, tokens_a, n_a), parent(tmp_path / "b", 2, tokens_b, n_b)
    result = merge(a[0], b[0], out=tmp_path / "child", t=T)
    child = load_file(tmp_path / "child/model.safetensors")
    tokens = max(tokens_a, tokens_b, key=len)
    n_rows = max(n_a, len(tokens))
    for name in (HEAD, EMBEDDING):
        assert np.array_equal(child[name], expected_rows(name, tokens, n_rows, a, b)), name
    assert json.loads((tmp_path / "child/config.json").read_text())["vocab_size"] == n_rows
    longer = b if len(tokens_b) > len(tokens_a) else a
    assert (tmp_path / "child/tokenizer.json").read_bytes() == (longer[0] / "tokenizer.json").read_bytes()
    assert len(tokens) <= n_rows
    told = [warning for warning in result.plan.warnings if "rows merged" in warning]
    assert bool(told) == (tokens_a != tokens_b or n_a != n_b)


def test_the_same_bytes_in_memory_and_for_any_threads(tmp_path):
    a, b = parent(tmp_path / "a", 1, WORDS[:20], 24), parent(tmp_path / "b", 2, WORDS, 30)
    child, _ = merge_into_memory(a[0], b[0], t=T, threads=1)
    merge(a[0], b[0], out=tmp_path / "child", t=T, threads=3)
    for name, tensor in load_file(tmp_path / "child/model.safetensors").items():
        assert np.array_equal(child[name].numpy(), tensor)


@pytest.mark.parametrize(("t", "first"), [(0, "a"), (1, "b")])
def test_at_an_end_shared_rows_are_that_parents_and_the_others_their_owners(tmp_path, t, first):
    a, b = parent(tmp_path / "a", 1, WORDS[:20], 20), parent(tmp_path / "b", 2, WORDS, 30)
    merge(a[0], b[0], out=tmp_path / "child", t=t)
    child = load_file(tmp_path / "child/model.safetensors")[HEAD]
    assert np.array_equal(child[:20], {"a": a, "b": b}[first][1][HEAD][:20])
    assert np.array_equal(child[20:], b[1][HEAD][20:])


@pytest.mark.parametrize("tokens_of", ["a", "b"])
def test_the_tokens_of_one_parent_only(tmp_path, tokens_of):
    """Each has tokens of its own in the same rows: the child keeps those of one."""
    own_a, own_b = [*WORDS[:20], "<a1>", "<a2>"], [*WORDS[:20], "<b1>", "<b2>", "<b3>"]
    a, b = parent(tmp_path / "a", 1, own_a, 22), parent(tmp_path / "b", 2, own_b, 23)
    chosen = {"a": a, "b": b}[tokens_of]
    merge(a[0], b[0], out=tmp_path / "child", t=T, tokenizer=tokens_of)
    child = load_file(tmp_path / "child/model.safetensors")[HEAD]
    assert np.array_equal(child[:20], slerp(T, a[1][HEAD][:20], b[1][HEAD][:20]))
    assert np.array_equal(child[20:], chosen[1][HEAD][20:])
    assert (tmp_path / "child/tokenizer.json").read_bytes() == (chosen[0] / "tokenizer.json").read_bytes()
    with pytest.raises(MismatchError) as caught:
        plan_merge(a[0], b[0])
    assert "2 tokens only in a, 3 only in b" in str(caught.value)
    assert str(caught.value).endswith("the child keeps the tokens of one parent")


def test_tokens_in_other_rows_are_refused(tmp_path):
    a, b = parent(tmp_path / "a", 1, WORDS, 30), parent(tmp_path / "b", 2, WORDS[::-1], 30)
    for tokenizer in ("a", "b", "union"):
        with pytest.raises(MismatchError, match="30 of 30 shared tokens have other rows"):
            plan_merge(a[0], b[0], tokenizer=tokenizer)


def test_rows_that_no_tokenizer_explains(tmp_path):
    a, b = parent(tmp_path / "a", 1, WORDS, 30), parent(tmp_path / "b", 2, WORDS, 31)
    (b[0] / "tokenizer.json").unlink()
    with pytest.raises(MismatchError, match="the vocabularies differ: 30, 31"):
        plan_merge(a[0], b[0])


def test_a_tied_parent_with_a_shorter_vocabulary(tmp_path):
    a, b = parent(tmp_path / "a", 1, WORDS[:20], 20), parent(tmp_path / "b", 2, WORDS, 30)
    tensors = {name: tensor for name, tensor in a[1].items() if name != HEAD}
    tied = write_checkpoint(
        tmp_path / "tied",
        tensors=tensors,
        config={"vocab_size": 20, "tie_word_embeddings": True},
        tokens=None,
    )
    write_json(tied / "tokenizer.json", tokenizer_json(WORDS[:20]))
    merge(tied, b[0], out=tmp_path / "child", t=T)
    child = load_file(tmp_path / "child/model.safetensors")
    assert np.array_equal(child[HEAD][:20], slerp(T, a[1][EMBEDDING], b[1][HEAD][:20]))
    assert np.array_equal(child[HEAD][20:], b[1][HEAD][20:])
    config = json.loads((tmp_path / "child/config.json").read_text())
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (30, False)


def test_a_second_merge_of_the_child_with_a_parent_is_finite(tmp_path):
    a, b = parent(tmp_path / "a", 1, WORDS[:20], 20), parent(tmp_path / "b", 2, WORDS, 30)
    merge(a[0], b[0], out=tmp_path / "child", t=T)
    for other in (a[0], b[0]):
        again, _ = merge_into_memory(tmp_path / "child", other, t=0.5)
        assert all(tensor.isfinite().all() for tensor in again.values())
        assert again[HEAD].shape[0] == 30


def vocabulary(*tokens: str) -> dict[str, int]:
    return {token: row for row, token in enumerate(tokens)}


@pytest.mark.parametrize(
    ("a", "b", "rows", "tokens_of", "expected"),
    [
        ("xyz", "xyz", (3, 3), "union", [(0, 3, "both")]),
        ("xyz", "xyz", (5, 4), "union", [(0, 4, "both"), (4, 1, "a")]),
        ("xyz", "xyz", (4, 5), "union", [(0, 4, "both")]),
        ("xy", "xyz", (2, 3), "union", [(0, 2, "both"), (2, 1, "b")]),
        ("xy", "xyz", (2, 3), "a", [(0, 2, "both")]),
        ("xy", "xyz", (2, 3), "b", [(0, 2, "both"), (2, 1, "b")]),
        ("xyz", "xy", (3, 2), "b", [(0, 2, "both")]),
        ("xyz", "xy", (2, 2), "union", [(0, 2, "both")]),  # a token beyond every matrix
        ("xyz", "xyz", (2, 3), "union", [(0, 2, "both"), (2, 1, "b")]),  # beyond a's matrix only
        ("", "", (4, 4), "union", [(0, 4, "both")]),
        ("xa", "xb", (2, 2), "a", [(0, 1, "both"), (1, 1, "a")]),
        ("xa", "xb", (2, 2), "b", [(0, 1, "both"), (1, 1, "b")]),
        ("xa", "xb", (2, 2), "union", None),
        ("xy", "yx", (2, 2), "union", None),
    ],
)
def test_runs(a, b, rows, tokens_of, expected):
    found = align_rows(vocabulary(*a), vocabulary(*b), *rows, tokens_of)
    assert found == (expected and tuple(RowRun(*run) for run in expected))


def test_a_shared_token_behind_one_of_a_single_parent_has_no_runs():
    assert align_rows({"x": 0, "y": 2}, {"x": 0, "only b": 1, "y": 2}, 3, 3) is None
