"""Rows that only one parent has, or none: `vocab_fill`, `tokens`, padding."""

from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import CheckpointError, MismatchError, merge, plan_merge, slerp
from fusion_slerp.api import merge_into_memory
from tests.models import write_json
from tests.vocabulary.test_rows import BIAS, EMBEDDING, HEAD, WORDS, Parent, parent

T = 0.3
FILLS = ("owner", "mean", "gradient", "zeros")


@pytest.fixture
def extended(tmp_path) -> tuple[Parent, Parent]:
    """Parents that share 10 tokens in other rows; a has 3 of its own, b has 4."""
    a = parent(tmp_path / "a", WORDS[:10], 13, [f"<a{i}>" for i in range(3)])
    b = parent(tmp_path / "b", WORDS[9::-1], 14, [f"<b{i}>" for i in range(4)])
    return a, b


def shared_rows(name: str, a: Parent, b: Parent, t: float = T) -> np.ndarray:
    """The ten shared rows before their rounding, to about the last digit of float64."""
    of_a, of_b = a.tensors[name][:10].astype("f8"), b.tensors[name][9::-1].astype("f8")
    return slerp(t, of_a, of_b)


def lone_rows(name: str, a: Parent, b: Parent) -> np.ndarray:
    return np.concatenate([a.tensors[name][10:], b.tensors[name][10:]]).astype("f8")


@pytest.mark.parametrize("t", [0, T, 1])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", [HEAD, EMBEDDING, BIAS])
def test_rows_of_one_parent_and_of_none(extended, name, fill, t):
    """17 tokens and 3 rows of padding: what fills them is computed here from whole matrices."""
    a, b = extended
    child, _ = merge_into_memory(
        a.folder, b.folder, t=t, vocab_fill=fill, pad_vocab_to_multiple_of=20, threads=1
    )
    rows, shared, lone = child[name].numpy(), shared_rows(name, a, b, t), lone_rows(name, a, b)
    assert len(rows) == 20
    assert np.array_equal(rows[:10], shared.astype("f4"))
    if fill == "owner":
        assert np.array_equal(rows[10:17], lone.astype("f4"))
        mean = np.concatenate([shared, lone]).mean(axis=0)
        assert np.allclose(rows[17:], mean, rtol=1e-6, atol=1e-7)
    elif fill == "mean":
        assert np.allclose(rows[10:], shared.mean(axis=0), rtol=1e-6, atol=1e-7)
    elif fill == "zeros":
        assert not rows[10:].any()
    else:  # from the last row before, evenly, to the first of the matrix: none comes after
        shares = np.arange(1, 11)[:, None] / 11 if shared.ndim > 1 else np.arange(1, 11) / 11
        expected = (1 - shares) * shared[9] + shares * shared[0]
        assert np.allclose(rows[10:], expected, rtol=1e-6, atol=1e-7)


def test_a_gradient_between_two_rows(tmp_path):
    """Tokens of one parent in the middle: evenly from the row before to the row after."""
    a = parent(tmp_path / "a", [*WORDS[:5], "x", "y", "z", *WORDS[5:10]], 13)
    b = parent(tmp_path / "b", WORDS[:10], 10)
    child, _ = merge_into_memory(a.folder, b.folder, t=T, vocab_fill="gradient")
    rows = child[HEAD].numpy().astype("f8")
    steps = [after - before for before, after in pairwise(rows[4:9])]
    assert all(np.allclose(step, steps[0], atol=1e-6) for step in steps)
    assert not np.allclose(rows[4], rows[8])


def test_the_coefficients_do_not_depend_on_the_filled_rows(extended):
    reports = [
        merge_into_memory(extended[0].folder, extended[1].folder, t=T, vocab_fill=fill)[1] for fill in FILLS
    ]
    angles = [{row.name: (row.angle_deg, row.norms) for row in report} for report in reports]
    assert all(found == angles[0] for found in angles)


def test_error_refuses_and_names_the_tokens(extended, tmp_path):
    a, b = extended
    with pytest.raises(MismatchError) as caught:
        merge(a.folder, b.folder, out=tmp_path / "child", vocab_fill="error")
    message = str(caught.value)
    assert "10 merged, 3 copied from a, 4 copied from b" in message
    assert "'<a0>', '<a1>', '<a2>', ... and 4 more" in message
    assert not (tmp_path / "child").exists()
    with pytest.raises(MismatchError, match="tokens: none: padding"):
        plan_merge(a.folder, a.folder, vocab_fill="error", pad_vocab_to_multiple_of=20)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("t", [0.01, 0.5])
def test_a_repeated_merge_stays_finite(extended, tmp_path, fill, t):
    """Rows of zeros at first, NaN and infinity at the next merge: what LLM-SLERP-Merge reports of itself."""
    a, b = extended
    options = {"t": t, "vocab_fill": fill, "dtype": "float16", "pad_vocab_to_multiple_of": 32}
    merge(a.folder, b.folder, out=tmp_path / "child 0", **options)
    for i, other in enumerate((a, b, a)):
        merge(tmp_path / f"child {i}", other.folder, out=tmp_path / f"child {i + 1}", **options)
        merge(other.folder, tmp_path / f"child {i}", out=tmp_path / f"mirrored {i + 1}", **options)
        for name in (f"child {i + 1}", f"mirrored {i + 1}"):
            weights = load_file(tmp_path / name / "model.safetensors")
            assert all(np.isfinite(tensor).all() for tensor in weights.values())
            assert len(weights[HEAD]) == 32


def test_the_rows_of_the_parent_whose_tokenizer_it_is(tmp_path):
    """By its label or by its name: b's padding stays, as a's would."""
    a, b = parent(tmp_path / "a", WORDS, 30), parent(tmp_path / "b", WORDS, 40)
    for name in ("b", str(b.folder)):
        child, _ = merge_into_memory(a.folder, b.folder, t=T, tokenizer=name)
        assert np.array_equal(child[HEAD][30:], b.tensors[HEAD][30:])


@pytest.mark.parametrize(("multiple", "n_rows"), [(None, 17), (1, 17), (8, 24), (17, 17), (64, 64)])
def test_padding_to_a_multiple(extended, tmp_path, multiple, n_rows):
    a, b = extended
    plan = plan_merge(a.folder, b.folder, pad_vocab_to_multiple_of=multiple)
    assert {t.out.shape[0] for t in plan.tensors if t.rows is not None} == {n_rows}
    alike = plan_merge(a.folder, a.folder, pad_vocab_to_multiple_of=multiple)
    wanted = -(-13 // (multiple or 1)) * (multiple or 1)
    assert {t.out.shape[0] for t in alike.tensors if t.out.name == HEAD} == {wanted}


# --- single tokens --------------------------------------------------------------------------------------

A1, B1 = "<a1>", "<b1>"  # in row 11 of either parent; 14 + 1 of the child
SHARED = "w3"  # in row 3 of a and of the child, 6 of b

SOURCES = {
    "a force": ({SHARED: {"source": "a", "force": True}}, 3, ("a", 3)),
    "b force": ({SHARED: {"source": "b", "force": True}}, 3, ("b", 6)),
    "b alone": ({SHARED: "b"}, 3, None),
    "zero force": ({SHARED: {"source": {"kind": "zero"}, "force": True}}, 3, "zero"),
    "zero alone": ({SHARED: {"source": {"kind": "zero"}}}, 3, None),
    "zero of one": ({A1: {"kind": "zero"}}, 11, ("a", 11)),
    "zero of one force": ({A1: {"source": {"kind": "zero"}, "force": True}}, 11, "zero"),
    "token": ({A1: {"kind": "model_token", "model": "b", "token": "<b2>"}}, 11, ("both", 11, 12)),
    "id": ({A1: {"kind": "model_token", "model": "b", "token_id": 0}}, 11, ("both", 11, 0)),
    "token of its owner": ({A1: {"kind": "model_token", "model": "a", "token": "<a2>"}}, 11, ("a", 11)),
    "token force": (
        {SHARED: {"source": {"kind": "model_token", "model": "b", "token": "<b2>"}, "force": True}},
        3,
        ("b", 12),
    ),
    "new token": ({"<new>": {"kind": "model_token", "model": "a", "token": "w0"}}, 17, ("a", 0)),
    "new zero": ({"<new>": {"kind": "zero"}}, 17, "zero"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_single_tokens(extended, case):
    a, b = extended
    tokens, row, wanted = SOURCES[case]
    plan = plan_merge(a.folder, b.folder, t=T, tokens=tokens)
    (rows,) = (tensor.rows for tensor in plan.tensors if tensor.out.name == HEAD)
    default = (3, 6) if row == 3 else (11, -1)
    found = {
        None: default,
        "zero": (-2, -2),
        "a": (wanted[1], -1) if wanted else (),
        "b": (-1, wanted[1]) if wanted else (),
        "both": wanted[1:] if wanted else (),
    }[wanted[0] if isinstance(wanted, tuple) else wanted]
    assert (rows.of["a"][row], rows.of["b"][row]) == found
    child, _ = merge_into_memory(a.folder, b.folder, t=T, tokens=tokens)
    made = child[HEAD].numpy()[row]
    if wanted == "zero":
        assert not made.any()
    elif wanted and wanted[0] in "ab":
        assert np.array_equal(made, {"a": a, "b": b}[wanted[0]].tensors[HEAD][wanted[1]])
    if "<new>" in tokens:
        assert plan.tokenizer.rows["<new>"] == len(made_rows(plan)) - 1 == 17


def made_rows(plan) -> np.ndarray:
    return next(tensor.rows.of["a"] for tensor in plan.tensors if tensor.out.name == HEAD)


@pytest.mark.parametrize("fill", ["mean", "gradient", "zeros", "error"])
def test_a_row_that_is_asked_for_is_not_filled(extended, fill):
    """`tokens` names the source of every row that is not merged here: `vocab_fill` does not undo it."""
    a, b = extended
    lone = {f"<{p}{i}>": p for p, n in (("a", 3), ("b", 4)) for i in range(n)}
    tokens = {**lone, SHARED: {"source": "b", "force": True}, "<b0>": {"kind": "zero"}}
    child, _ = merge_into_memory(a.folder, b.folder, t=T, vocab_fill=fill, tokens=tokens)
    rows = child[HEAD].numpy()
    assert np.array_equal(rows[3], b.tensors[HEAD][6])
    assert np.array_equal(rows[10:], lone_rows(HEAD, a, b))


def test_a_parent_by_its_name(extended):
    a, b = extended
    tokens = {SHARED: {"source": str(b.folder), "force": True}}
    assert made_rows(plan_merge(a.folder, b.folder, tokens=tokens))[3] == -1


# --- matrices and tokenizers that do not fit each other ---------------------------------------------------


def test_tokens_beyond_the_matrix(tmp_path):
    """Both tokenizers have 30 tokens; a has rows for 28, b for 29."""
    a, b = parent(tmp_path / "a", WORDS, 28), parent(tmp_path / "b", WORDS, 29)
    result = merge(a.folder, b.folder, out=tmp_path / "child", t=T)
    (tmp_path / "child").rename(tmp_path / "c")
    child = load_file(tmp_path / "c/model.safetensors")
    assert np.array_equal(child[HEAD][:28], slerp(T, a.tensors[HEAD], b.tensors[HEAD][:28]))
    assert np.array_equal(child[HEAD][28], b.tensors[HEAD][28])
    assert len(child[HEAD]) == 30
    assert f"{a.folder}: 2 tokens with an id beyond its 28 rows" in result.plan.warnings
    assert f"{b.folder}: 1 token with an id beyond its 29 rows" in result.plan.warnings


@pytest.mark.parametrize("without", ["a", "b"])
def test_a_tokenizer_on_one_side_only(tmp_path, without):
    """Rows are taken to stand for the same tokens; the longer matrix keeps its rows if they are known."""
    a, b = parent(tmp_path / "a", WORDS[:28], 28), parent(tmp_path / "b", WORDS, 30)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        ({"a": a, "b": b}[without].folder / name).unlink(missing_ok=True)
    result = merge(a.folder, b.folder, out=tmp_path / "child", t=T)
    child = load_file(tmp_path / "child/model.safetensors")[HEAD]
    assert np.array_equal(child[:28], slerp(T, a.tensors[HEAD], b.tensors[HEAD][:28]))
    assert np.array_equal(child[28:], b.tensors[HEAD][28:] if without == "a" else np.empty((0, 8), "f4"))
    giver = {"a": b, "b": a}[without].folder
    assert (tmp_path / "child/tokenizer.json").read_bytes() == (giver / "tokenizer.json").read_bytes()
    assert any("could not be compared" in warning for warning in result.plan.warnings)
    if without == "b":
        assert any(f"2 of {b.folder} left out" in note for note in result.plan.notes)


def test_a_chat_template_alone_is_no_tokenizer(tmp_path):
    """a's files decide on no token, so the merged model gets b's tokenizer and tokens."""
    a, b = parent(tmp_path / "a", WORDS[:28], 28), parent(tmp_path / "b", WORDS, 30)
    (a.folder / "tokenizer.json").unlink()
    (a.folder / "chat_template.jinja").write_text("{{ messages }}")
    result = merge(a.folder, b.folder, out=tmp_path / "child", t=T)
    written = tmp_path / "child/tokenizer.json"
    assert written.read_bytes() == (b.folder / "tokenizer.json").read_bytes()
    assert any("the merged model gets those of" in warning for warning in result.plan.warnings)
    with pytest.raises(CheckpointError, match="no tokenizer there"):
        plan_merge(b.folder, a.folder, tokenizer="b")


def test_no_tokenizer_at_all(tmp_path):
    """The rows at the end may be tokens, so they are kept."""
    a, b = parent(tmp_path / "a", WORDS[:28], 28), parent(tmp_path / "b", WORDS, 30)
    for folder in (a.folder, b.folder):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink(missing_ok=True)
    child, _ = merge_into_memory(a.folder, b.folder, t=T)
    assert np.array_equal(child[HEAD][:28], slerp(T, a.tensors[HEAD], b.tensors[HEAD][:28]))
    assert np.array_equal(child[HEAD][28:], b.tensors[HEAD][28:])


def test_a_head_longer_than_the_embedding(tmp_path):
    """Each matrix follows the tokens with its own number of rows."""
    a, b = parent(tmp_path / "a", WORDS[:20], 24), parent(tmp_path / "b", WORDS[19::-1], 24)
    for p in (a, b):
        p.tensors[EMBEDDING] = p.tensors[EMBEDDING][:20]
        save_file(p.tensors, p.folder / "model.safetensors")
    child, _ = merge_into_memory(a.folder, b.folder, t=T)
    assert (len(child[HEAD]), len(child[EMBEDDING])) == (24, 20)
    of_a, of_b = a.tensors[EMBEDDING], b.tensors[EMBEDDING][::-1]
    assert np.array_equal(child[EMBEDDING].numpy(), slerp(T, of_a, of_b))


def test_a_vocabulary_tensor_of_one_parent_only(tmp_path):
    """`missing: copy` with other vocabularies: its rows follow the tokens, other rows are filled."""
    a, b = parent(tmp_path / "a", WORDS[:20], 20), parent(tmp_path / "b", WORDS[5:25], 20)
    bias = b.tensors.pop(BIAS)
    save_file(b.tensors, b.folder / "model.safetensors")
    child, report = merge_into_memory(a.folder, b.folder, t=T, missing="copy", vocab_fill="owner")
    found = child[BIAS].numpy()
    assert bias is not None
    assert np.array_equal(found[:20], a.tensors[BIAS])
    assert np.allclose(found[20:], a.tensors[BIAS].astype("f8").mean())
    assert {row.name: row.rule for row in report}[BIAS] == "copy a"


def test_a_tokenizer_that_is_not_a_tokenizer(tmp_path):
    a, b = parent(tmp_path / "a", WORDS, 30), parent(tmp_path / "b", WORDS, 30)
    write_json(b.folder / "tokenizer.json", {"model": {"vocab": 5}})
    assert any("could not be compared" in warning for warning in plan_merge(a.folder, b.folder).warnings)
