"""Which parent's row feeds each row of the child.

The expected rows are computed here token by token, with nothing of the package but `slerp`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, merge, plan_merge, slerp
from fusion_slerp.api import merge_into_memory, run_in_memory
from fusion_slerp.sources.open_files import OpenFiles
from fusion_slerp.vocabulary.rows import NOBODY, ZERO, RowMap, align, runs
from tests.models import tiny_tensors, tokenizer_json, write_checkpoint, write_json

HEAD, EMBEDDING, BIAS = "lm_head.weight", "model.embed_tokens.weight", "lm_head.bias"
WORDS = [f"w{i}" for i in range(30)]
T = 0.3


@dataclass
class Parent:
    folder: Path
    tensors: dict[str, np.ndarray]
    row_of: dict[str, int]


def parent(
    folder: Path, tokens: Sequence[str], n_rows: int, added: Sequence[str] = (), width: int = 8
) -> Parent:
    """A checkpoint with a tokenizer of these tokens, in their order, and this number of rows."""
    rng = np.random.default_rng(len(folder.name) + ord(folder.name[0]))
    tensors = tiny_tensors(1) | {BIAS: rng.standard_normal(n_rows).astype("f4")}
    tensors |= {name: rng.standard_normal((n_rows, width)).astype("f4") for name in (HEAD, EMBEDDING)}
    write_checkpoint(folder, tensors=tensors, config={"vocab_size": n_rows}, tokens=None)
    row_of = {token: row for row, token in enumerate([*tokens, *added])}
    write_json(folder / "tokenizer.json", tokenizer_json(tokens, {token: row_of[token] for token in added}))
    return Parent(folder, tensors, row_of)


def expected(name: str, child: dict[str, int], n_rows: int, a: Parent, b: Parent, t: float = T) -> np.ndarray:
    """Row by row; the rows that no model has are NaN."""
    token_at = {row: token for token, row in child.items()}
    of_a, of_b = a.tensors[name], b.tensors[name]
    pairs, rows = [], np.full((n_rows, *of_a.shape[1:]), np.nan, "f4")
    for row in range(n_rows):
        if row in token_at:
            in_a, in_b = a.row_of.get(token_at[row]), b.row_of.get(token_at[row])
        else:
            in_a = row if row not in a.row_of.values() else None
            in_b = row if row not in b.row_of.values() else None
        in_a = in_a if in_a is not None and in_a < len(of_a) else None
        in_b = in_b if in_b is not None and in_b < len(of_b) else None
        if in_a is not None and in_b is not None:
            pairs.append((row, in_a, in_b))
        elif in_a is not None:
            rows[row] = of_a[in_a]
        elif in_b is not None:
            rows[row] = of_b[in_b]
    if pairs:
        at, in_a, in_b = (list(column) for column in zip(*pairs, strict=True))
        rows[at] = slerp(t, of_a[in_a], of_b[in_b])
    return rows


SHUFFLED = [WORDS[i] for i in np.random.default_rng(5).permutation(30)]

# tokens and rows of a, tokens and rows of b, the child's tokens in order, its rows
CASES = {
    "equal": (WORDS, 30, WORDS, 30, WORDS, 30),
    "b has one more": (WORDS[:29], 29, WORDS, 30, WORDS, 30),
    "b has many more": (WORDS[:10], 10, WORDS, 30, WORDS, 30),
    "a has more": (WORDS, 30, WORDS[:25], 25, WORDS, 30),
    "a is padded": (WORDS, 40, WORDS, 30, WORDS, 40),
    "b is padded": (WORDS, 30, WORDS, 40, WORDS, 30),
    "both are padded alike": (WORDS, 40, WORDS, 40, WORDS, 40),
    "b's tokens lie in a's padding": (WORDS[:25], 40, WORDS, 30, WORDS, 40),
    "b's tokens lie in the padding of both": (WORDS[:25], 40, WORDS, 40, WORDS, 40),
    "a's tokens lie in b's padding": (WORDS, 30, WORDS[:25], 40, WORDS, 30),
    "permuted": (WORDS, 30, SHUFFLED, 30, WORDS, 30),
    "permuted and padded": (WORDS, 33, SHUFFLED, 40, WORDS, 33),
    "two swapped": (WORDS, 30, [*WORDS[:28], WORDS[29], WORDS[28]], 30, WORDS, 30),
    "permuted, b has more": (WORDS[:20], 20, SHUFFLED, 30, SHUFFLED, 30),
    "permuted, a has more": (SHUFFLED, 30, WORDS[:20], 20, SHUFFLED, 30),
    "a token before the shared ones": (WORDS, 30, ["new", *WORDS], 31, ["new", *WORDS], 31),
    "each has its own": (WORDS[:20], 20, WORDS[5:30], 25, WORDS, 30),
    "each has its own, in a's padding": (WORDS[:20], 64, WORDS[5:30], 25, WORDS, 64),
    "nothing shared": (WORDS[:12], 12, WORDS[12:], 18, WORDS, 30),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_the_child(tmp_path, case):
    tokens_a, n_a, tokens_b, n_b, tokens, n_rows = CASES[case]
    a, b = parent(tmp_path / "a", tokens_a, n_a), parent(tmp_path / "b", tokens_b, n_b)
    result = merge(a.folder, b.folder, out=tmp_path / "child", t=T)
    child = load_file(tmp_path / "child/model.safetensors")
    row_of = {token: row for row, token in enumerate(tokens)}
    for name in (HEAD, EMBEDDING, BIAS):
        assert np.array_equal(child[name], expected(name, row_of, n_rows, a, b)), name
    assert json.loads((tmp_path / "child/config.json").read_text())["vocab_size"] == n_rows
    assert bool(result.plan.notes) == ((tokens_a, n_a) != (tokens_b, n_b))
    written = (tmp_path / "child/tokenizer.json").read_bytes()
    if set(tokens) in (set(tokens_a), set(tokens_b)):
        assert written in [(p.folder / "tokenizer.json").read_bytes() for p in (a, b)]
    assert json.loads(written)["model"]["vocab"] == row_of


@pytest.mark.parametrize("tokenizer", ["a", "b", "union"])
@pytest.mark.parametrize("t", [0, T, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_choice_of_tokens_at_every_t(tmp_path, tokenizer, t, threads):
    a = parent(tmp_path / "a", WORDS[:20], 22, ["<a1>", "<a2>"], width=3)
    b = parent(tmp_path / "b", SHUFFLED[:25], 26, ["<b1>"], width=3)
    child, _ = merge_into_memory(a.folder, b.folder, t=t, tokenizer=tokenizer, threads=threads)
    only_b = [token for token in b.row_of if token not in a.row_of]
    ordered = [*(token for token in only_b if token != "<b1>"), "<b1>"]
    united = {**a.row_of, **{token: 22 + i for i, token in enumerate(ordered)}}
    row_of = {"a": a.row_of, "b": b.row_of, "union": united}[tokenizer]
    for name in (HEAD, EMBEDDING, BIAS):
        rows = expected(name, row_of, len(row_of), a, b, t)
        assert np.array_equal(child[name].numpy(), rows), name


def test_a_permuted_parent_gives_the_bytes_of_the_unpermuted_one(tmp_path):
    """Sums run in the order of the child's rows, whatever the parents' order; over many chunks here."""
    rng, n, width = np.random.default_rng(0), 3000, 1111
    words = [f"w{i}" for i in range(n)]
    order = rng.permutation(n)
    tensors = {EMBEDDING: rng.standard_normal((n, width)).astype("f4")}
    for name, rows in (("a", None), ("b", np.arange(n)), ("shuffled", order)):
        if rows is not None:
            of_b = tensors["b"] if "b" in tensors else rng.standard_normal((n, width)).astype("f4")
            tensors["b"] = of_b
        given = tensors[EMBEDDING] if rows is None else tensors["b"][rows]
        write_checkpoint(tmp_path / name, tensors={EMBEDDING: given}, config={"vocab_size": n}, tokens=None)
        listed = words if rows is None else [words[row] for row in rows]
        write_json(tmp_path / name / "tokenizer.json", tokenizer_json(listed))
    for name in ("b", "shuffled"):
        merge(tmp_path / "a", tmp_path / name, out=tmp_path / f"child of {name}", t=T, dtype="bfloat16")
    children = [tmp_path / f"child of {name}/model.safetensors" for name in ("b", "shuffled")]
    assert children[0].read_bytes() == children[1].read_bytes()


def test_reports_count_the_rows(tmp_path):
    a, b = parent(tmp_path / "a", WORDS[:20], 20), parent(tmp_path / "b", WORDS[5:], 25)
    result = merge(a.folder, b.folder, out=tmp_path / "child", t=T, pad_vocab_to_multiple_of=16)
    rows = {row.name: row.rows for row in result.report}
    assert str(rows[HEAD]) == "15 merged, 5 copied from a, 10 copied from b, 2 filled"
    assert rows["model.norm.weight"] is None
    assert result.plan.notes == (
        f"vocabularies of 20 and 25 rows, 32 in the merged model: 15 merged, 5 copied from {a.folder}, "
        f"10 copied from {b.folder}, 2 filled",
    )


@pytest.mark.parametrize(("setting", "n_rows"), [("union", 40), ("a", 40), ("b", 32), ("../b", 32)])
def test_as_many_rows_as_the_parent_whose_tokenizer_is_asked_for(tmp_path, setting, n_rows):
    a, b = parent(tmp_path / "a", WORDS, 40), parent(tmp_path / "b", WORDS, 32)
    setting = f"{tmp_path}/a/{setting}" if "/" in setting else setting
    plan = plan_merge(a.folder, b.folder, tokenizer=setting)
    assert {t.out.shape[0] for t in plan.tensors if t.out.name in (HEAD, EMBEDDING)} == {n_rows}


# --- the map itself -------------------------------------------------------------------------------------


@given(st.lists(st.integers(-2, 12), max_size=40))
def test_runs_are_the_rows(rows):
    rows = np.array(rows, np.int64)
    found = np.full(len(rows), NOBODY)
    for start, count, row in zip(*(column.tolist() for column in runs(rows)), strict=True):
        assert count > 0
        assert (found[start : start + count] == NOBODY).all()
        found[start : start + count] = range(row, row + count)
    assert np.array_equal(found, np.where(rows < 0, NOBODY, rows))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_equal_rows_are_one_run(n):
    assert [column.tolist() for column in runs(np.arange(n))] == ([[0], [n], [0]] if n else [[], [], []])


def test_maps_are_values():
    one, other = (align({"x": 0}, {"a": {"x": 0}, "b": {"x": 1}}, {"a": 1, "b": 2}, 2) for _ in range(2))
    assert one == other
    assert one != one.kept(one.merged, ["a"])
    assert {label: rows.tolist() for label, rows in one.of.items()} == {"a": [0, NOBODY], "b": [1, NOBODY]}
    zero = RowMap({"a": np.array([0, ZERO, 2]), "b": np.array([NOBODY, ZERO, 1])})
    assert zero.only_shared().of["a"].tolist() == [NOBODY, ZERO, 2]
    assert str(zero.counts) == "1 merged, 1 copied from a, 1 filled"


def test_a_plan_counts_the_rows_that_are_read(tmp_path):
    a, b = parent(tmp_path / "a", WORDS[:20], 20), parent(tmp_path / "b", WORDS, 30)
    plan = plan_merge(a.folder, b.folder, t=T)
    (head,) = (tensor for tensor in plan.tensors if tensor.out.name == HEAD)
    assert head.nbytes_in == (20 + 30) * 8 * 4
    (head,) = (t for t in plan_merge(a.folder, b.folder, t=0).tensors if t.out.name == HEAD)
    assert (str(head.work), head.nbytes_in) == ("copy a", 30 * 8 * 4)


def test_a_file_that_became_shorter_is_named(tmp_path, monkeypatch):
    """While a hundred rows are read from all over it."""
    words = [f"w{i}" for i in range(100)]
    a, b = parent(tmp_path / "a", words, 100), parent(tmp_path / "b", words[::-1], 100)
    plan = plan_merge(a.folder, b.folder)
    file = b.folder / "model.safetensors"
    real = OpenFiles.check_unchanged

    def check_and_truncate(files):
        real(files)
        with file.open("rb+") as stream:
            stream.truncate(file.stat().st_size - 5000)

    monkeypatch.setattr(OpenFiles, "check_unchanged", check_and_truncate)
    with pytest.raises(CheckpointError, match="reading failed") as caught:
        run_in_memory(plan)
    assert str(file) in str(caught.value)


def test_rows_of_the_models_that_a_tensor_is_made_of():
    """Of several, those that two have; of one, all of its own: no other could have them."""
    rows = RowMap({"a": np.array([0, 1, NOBODY]), "b": np.array([1, NOBODY, 0])})
    assert rows.shared().tolist() == rows.shared(("a", "b")).tolist() == [True, False, False]
    assert rows.shared(("a",)).tolist() == [True, True, False]
    assert rows.only_shared(makers=("a",)).of["a"].tolist() == [0, 1, NOBODY]
    assert rows.only_shared([2], ("a",)).of["b"].tolist() == [1, NOBODY, 0]
    assert RowMap({"a": np.array([0, NOBODY])}).only_shared().of["a"].tolist() == [0, NOBODY]
