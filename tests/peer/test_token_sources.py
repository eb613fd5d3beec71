"""Rows that the user chooses, by one mapping for both programs; padding; tokens without rows."""

import numpy as np
import pytest

from fusion_slerp import merge
from tests.peer import mergekit_command as mergekit
from tests.peer.parents import EMBEDDING, END, HEAD, PLAY, Model, read, save, tokenizer_json
from tests.peer.test_vocabularies import T, assert_close, coefficients
from tests.reference import F32, expect

pytestmark = pytest.mark.peer

A_TOKENS = [f"<a{i}>" for i in range(6)]
B_TOKENS = ["<b0>", "<b1>"]
ZERO = None
Side = tuple[str, str] | None
"""A parent and one of its tokens; or a row of zeros."""

SOURCES: dict[str, tuple[object, Side, Side]] = {
    # shared: without force nothing changes, with it both sides are the one row
    "Ġbe": ({"source": "a", "force": True}, ("a", "Ġbe"), ("a", "Ġbe")),
    "Ġto": ({"source": "b", "force": True}, ("b", "Ġto"), ("b", "Ġto")),
    "Ġis": ({"source": "b"}, ("a", "Ġis"), ("b", "Ġis")),
    "Ġor": ({"source": {"kind": "zero"}, "force": True}, ZERO, ZERO),
    "Ġin": ({"source": {"kind": "zero"}}, ("a", "Ġin"), ("b", "Ġin")),
    "Ġthe": (
        {"source": {"kind": "model_token", "model": "b", "token": "Ġno"}, "force": True},
        ("b", "Ġno"),
        ("b", "Ġno"),
    ),
    # of one parent
    "<a0>": ({"source": "a"}, ("a", "<a0>"), ("a", "<a0>")),
    "<a1>": ({"source": {"kind": "zero"}}, ("a", "<a1>"), ZERO),
    "<a2>": ({"source": {"kind": "zero"}, "force": True}, ZERO, ZERO),
    "<a3>": (
        {"source": {"kind": "model_token", "model": "b", "token": "Ġbe"}},
        ("a", "<a3>"),
        ("b", "Ġbe"),
    ),
    "<b0>": (
        {"source": {"kind": "model_token", "model": "a", "token": "Ġto"}},
        ("a", "Ġto"),
        ("b", "<b0>"),
    ),
    # of neither
    "<new0>": (
        {"source": {"kind": "model_token", "model": "a", "token": "Ġno"}},
        ("a", "Ġno"),
        ("a", "Ġno"),
    ),
    "<new1>": ({"source": {"kind": "zero"}}, ZERO, ZERO),
}
"""For each token what the user says, and what mergekit interpolates: as parent a's row, as parent b's."""

OWNERS_OTHER = {"<a4>": ({"source": {"kind": "model_token", "model": "a", "token": "Ġbe"}}, ("a", "Ġbe"))}
"""Another row of the only parent that has the token, and what mergekit takes for b's row."""


@pytest.fixture(scope="module")
def parents(tmp_path_factory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("parents")
    order = np.random.default_rng(5)
    a = save(folder / "a", tokenizer_json(PLAY, [END, *A_TOKENS]), "float32", seed=1, n_rows=304)
    b = save(folder / "b", tokenizer_json(PLAY, [END, *B_TOKENS], order), "float32", seed=2, ancestor=a)
    return {"a": a, "b": b}


def with_folders(source: object, parents: dict[str, Model]) -> object:
    """What the user says, with the parents' folders for a and b: mergekit knows no other names."""
    if isinstance(source, dict):
        return {key: with_folders(value, parents) for key, value in source.items()}
    return str(parents[source].folder) if isinstance(source, str) and source in parents else source


@pytest.fixture(scope="module")
def children(parents, tmp_path_factory) -> tuple[Model, Model]:
    """Ours and mergekit's, by the very same mapping."""
    mergekit.command()
    folder = tmp_path_factory.mktemp("children")
    a, b = parents["a"].folder, parents["b"].folder
    said = {token: given[0] for token, given in (SOURCES | OWNERS_OTHER).items()}
    tokens = with_folders(said, parents)
    mergekit.slerp(a, b, folder / "mergekit", T, "float32", source="union", tokens=tokens)
    merge(a, b, out=folder / "ours", t=T, tokens=tokens)
    return read(folder / "ours"), read(folder / "mergekit")


def sides(token: str, parents: dict[str, Model]) -> tuple[Side, Side]:
    """What mergekit interpolates for a token of the child."""
    if token in SOURCES:
        return SOURCES[token][1:]
    if token in OWNERS_OTHER:
        return ("a", token), OWNERS_OTHER[token][1]
    have = [label for label in "ab" if token in parents[label].row_of]
    return (have[0], token), (have[-1], token)


def row(side: Side, name: str, parents: dict[str, Model]) -> np.ndarray:
    return parents[side[0]].rows(name, [side[1]])[0] if side else np.zeros_like(parents["a"].tensors[name][0])


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_rows_by_one_mapping(parents, children, name):
    """Two parents' rows are merged by both; one row alone is a copy in ours, and scaled by mergekit."""
    ours, theirs = children
    tokens = list(theirs.row_of)
    assert set(ours.row_of) == set(tokens) >= SOURCES.keys() | OWNERS_OTHER.keys()
    both = [sides(token, parents) for token in tokens]
    of_a, of_b = (
        np.array([row(side, name, parents) for side in column]) for column in zip(*both, strict=True)
    )
    s0, s1, _ = coefficients(of_a, of_b)
    assert (len(ours.tensors[name]), len(theirs.tensors[name])) == (304, len(tokens))  # a is padded
    assert_close(theirs.rows(name, tokens), of_a, of_b, (s0, s1), "float32")
    assert s0 + s1 > 1.1

    merged = np.array([bool(x and y and x[0] != y[0]) for x, y in both])
    a, b = of_a[merged].ravel(), of_b[merged].ravel()
    found = ours.rows(name, tokens)
    assert not expect(T, a, b).misrounded(found[merged].ravel(), a, b, F32).any()
    alone = np.array([row(x or y, name, parents) for x, y in both])
    assert np.array_equal(found[~merged], alone[~merged])


def test_padding_rows(parents, tmp_path):
    """Ours keep parent a's padding; mergekit drops it, and fills up with the mean of scaled rows."""
    a, b = parents["a"], parents["b"]
    mergekit.slerp(a.folder, b.folder, tmp_path / "mergekit", T, "float32", pad_to_multiple_of=16)
    merge(a.folder, b.folder, out=tmp_path / "ours", t=T, pad_vocab_to_multiple_of=16)
    ours, theirs = read(tmp_path / "ours"), read(tmp_path / "mergekit")
    n_tokens = len(theirs.row_of)
    assert (n_tokens, len(a.tensors[HEAD])) == (299, 304)
    assert (len(ours.tensors[HEAD]), len(theirs.tensors[HEAD])) == (304, 304)
    assert np.array_equal(ours.tensors[HEAD][n_tokens:], a.tensors[HEAD][n_tokens:])
    mean = theirs.tensors[HEAD][:n_tokens].mean(axis=0)
    assert np.allclose(theirs.tensors[HEAD][n_tokens:], mean, rtol=1e-5, atol=1e-8)


def test_tokens_beyond_the_matrix(parents, tmp_path):
    """b's tokenizer has two tokens more than its matrix rows: ours say so, mergekit stops."""
    a = parents["a"]
    tokenizer = tokenizer_json(PLAY, [END, "<a0>", "<b1>"])
    b = save(tmp_path / "b", tokenizer, "float32", seed=2, n_rows=291)
    assert (b.row_of["<a0>"], b.row_of["<b1>"]) == (291, 292)
    failed = mergekit.run(a.folder, b.folder, tmp_path / "mergekit", T, "float32")
    assert failed.returncode != 0
    assert "KeyError" in failed.stderr
    result = merge(a.folder, b.folder, out=tmp_path / "ours", t=T)
    assert any("2 tokens with an id beyond its 291 rows" in warning for warning in result.plan.warnings)
    ours = read(tmp_path / "ours")
    assert np.array_equal(ours.rows(HEAD, ["<a0>"]), a.rows(HEAD, ["<a0>"]))
    # b's own is in a row of a's padding
    assert ours.row_of["<b1>"] == 297 < len(ours.tensors[HEAD]) == 304
    mean = np.delete(ours.tensors[HEAD], 297, axis=0).mean(axis=0)
    assert np.allclose(ours.rows(HEAD, ["<b1>"])[0], mean, rtol=1e-5, atol=1e-8)
