"""A reserved token that one model has renamed in place is one row, not two tokens."""

import numpy as np
import pytest

from fusion_slerp import plan_merge
from fusion_slerp.vocabulary.renamed import is_reserved, missing, renamed_in
from tests.models import write_checkpoint, write_json
from tests.tokenizer_kinds import tokenizer
from tests.vocabulary.aligned import aligned, counts_of, models_with

RESERVED = [f"<|reserved_special_token_{i}|>" for i in range(3)]
WORDS = ["hello", "world"]
N = 3
"""Rows before the first reserved one: the unknown token and the words."""


def reserving(*names: str) -> dict:
    """A tokenizer with these special tokens after its words."""
    return tokenizer("WordLevel", WORDS, {name: {"special": True} for name in names})


@pytest.mark.parametrize(
    "token",
    [
        "<|reserved_special_token_0|>", "<unused99>", "[unused0]", "[UNUSED_TOKEN_146]",
        "<｜place▁holder▁no▁7｜>", "<|dummy_0|>", "<|placeholder1|>", "<SPECIAL_20>", "[control_8]",
        "<|extra_0|>", "madeupword0001", "<|reserved_200017|>", ">>UNUSED_12<<", "<|reserved001|>",
    ],
)  # fmt: skip
def test_names_of_reserved_tokens(token):
    assert is_reserved(token)


@pytest.mark.parametrize(
    "token", ["<|im_start|>", "reserved", "Ġunused", "▁special", "<extra_id_0>", "<0x0A>", "2024", "x" * 999]
)
def test_other_tokens(token):
    assert not is_reserved(token)


def rows_of(models, **options):
    alignment = aligned(models, **options)
    counts = counts_of(alignment)
    return alignment, alignment.rows(counts, max(max(counts.values()), max(alignment.child.values()) + 1))


@pytest.mark.parametrize("renamer", ["a", "b"])
def test_the_model_that_renamed_it_gives_the_tokenizer(tmp_path, renamer):
    """The merged model has as many rows as before, and the renamed row is that model's alone."""
    names = {"a": RESERVED, "b": RESERVED} | {renamer: [RESERVED[0], "<|im_start|>", RESERVED[2]]}
    models = models_with(tmp_path, **{label: reserving(*each) for label, each in names.items()})
    alignment, rows = rows_of(models)
    assert (alignment.tokenizer.giver, alignment.tokenizer.written) == (renamer, {})
    assert rows is not None
    assert len(rows) == N + 3
    other = {"a": "b", "b": "a"}[renamer]
    assert (rows.of[renamer][N + 1], rows.of[other][N + 1]) == (N + 1, -1)
    one, two = (models[label].source for label in (renamer, other))
    assert alignment.remarks == (
        f"{one} has renamed reserved tokens of {two}: '{RESERVED[1]}' in row {N + 1} is '<|im_start|>'; "
        "the merged model has the new name",
    )


@pytest.mark.parametrize(("choice", "outcome"), [("a", "the old name"), ("b", "the new name")])
def test_a_requested_tokenizer_decides(tmp_path, choice, outcome):
    models = models_with(tmp_path, a=reserving(*RESERVED), b=reserving(RESERVED[0], "<x>", RESERVED[2]))
    alignment, rows = rows_of(models, tokenizer=choice)
    assert rows is not None
    assert (rows.of[choice][N + 1], rows.of["ba"[choice == "b"]][N + 1]) == (N + 1, -1)
    assert any(line.endswith(f"the merged model has {outcome}") for line in alignment.remarks)
    lost = [line for line in alignment.remarks if "lacks" in line]
    assert lost == (
        [] if choice == "b" else [f"the merged model lacks 1 token of {models['b'].source}: '<x>'"]
    )


def test_each_has_renamed_another(tmp_path):
    """A union: b's name follows a's tokens, and the row under its old name stays."""
    models = models_with(
        tmp_path, a=reserving("<x>", *RESERVED[1:]), b=reserving(RESERVED[0], "<y>", RESERVED[2])
    )
    alignment, rows = rows_of(models)
    assert rows is not None
    assert sorted(alignment.child, key=alignment.child.__getitem__)[N:] == ["<x>", *RESERVED[1:], "<y>"]
    assert (rows.of["a"][N], rows.of["b"][N]) == (N, -1)
    assert (rows.of["a"][-1], rows.of["b"][-1]) == (-1, N + 1)
    outcomes = [
        line.rpartition("the merged model has ")[2] for line in alignment.remarks if "has renamed" in line
    ]
    assert outcomes == ["both", "the new name"]


def test_two_names_for_one_row_are_two_tokens(tmp_path):
    """Neither name is a reserved one: each model has added a token of its own."""
    models = models_with(tmp_path, a=reserving("<x>"), b=reserving("<y>"))
    alignment, _ = rows_of(models)
    assert {"<x>", "<y>"} <= alignment.child.keys()
    assert not any("renamed" in line for line in alignment.remarks)


def test_reserved_tokens_that_are_not_renamed_are_kept(tmp_path):
    """b has no token in their rows."""
    models = models_with(tmp_path, a=reserving(*RESERVED), b=reserving("<x>"))
    assert missing({"<x>": 3}, {"<x>": 3, RESERVED[0]: 4}) == [RESERVED[0]]
    alignment, _ = rows_of(models)
    assert {*RESERVED[1:], "<x>"} <= alignment.child.keys()


def test_renamed_tokens_of_equal_vocabularies_are_none():
    rows = {RESERVED[0]: 0, "x": 1}
    assert renamed_in(rows, dict(rows)) == {}
    assert missing(rows, rows) == []


def test_the_plan_keeps_the_number_of_rows(tmp_path):
    """Of a whole merge, vocab_size in the config included."""
    for name, names in (("a", RESERVED), ("b", ["<x>", *RESERVED[1:]])):
        tensors = {key: np.ones((N + 3, 2), "f4") for key in ("lm_head.weight", "model.embed_tokens.weight")}
        write_checkpoint(tmp_path / name, tensors=tensors, config={"vocab_size": N + 3}, tokens=None)
        write_json(tmp_path / name / "tokenizer.json", reserving(*names))
    plan = plan_merge(tmp_path / "a", tmp_path / "b")
    assert {tensor.out.shape for tensor in plan.tensors} == {(N + 3, 2)}
    assert plan.configs["config.json"] == tmp_path / "a/config.json"
