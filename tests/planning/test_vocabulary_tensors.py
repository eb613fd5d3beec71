"""The tensors that follow the tokens, and those that may."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import MismatchError, SettingsError, merge, plan_merge
from tests.models import TOKENS, tiny_tensors, write_checkpoint

V = len(TOKENS)
TURNED = [0, 1, *range(V - 1, 1, -1)]
"""Another order of the tokens."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
rng = np.random.default_rng(5)


def table(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("f4")


def permuted(tmp_path, more, follows=(), config=None):
    """Two models that differ in the order of their tokens alone, and all tensors of the first."""
    tensors = tiny_tensors(1) | more
    own = {EMBEDDING, HEAD, *follows}
    a = write_checkpoint(tmp_path / "a", tensors=tensors, config=config)
    b = write_checkpoint(
        tmp_path / "b",
        tensors={name: each[TURNED] if name in own else each for name, each in tensors.items()},
        tokens=[TOKENS[i] for i in TURNED],
        config=config,
    )
    return a, b, tensors


def child_of(tmp_path, a, b, **options):
    merge(a, b, out=tmp_path / "child", t=0.5, **options)
    return load_file(tmp_path / "child/model.safetensors"), json.loads(
        (tmp_path / "child/config.json").read_text()
    )


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.bias",
        "model.embed_tokens_per_layer.weight",
        "model.layers.1.shared_head.head.weight",
        "model.layers.1.embed_tokens.weight",
    ],
)
def test_rows_follow_the_tokens_under_every_known_name(tmp_path, name):
    shape = (V,) if name.endswith("bias") else (V, 3)
    n_layers = 2 if name == "model.layers.1.embed_tokens.weight" else 1  # the others': multi-token prediction
    config = {"num_hidden_layers": n_layers}
    a, b, tensors = permuted(tmp_path, {name: table(*shape)}, [name], config)
    child, _ = child_of(tmp_path, a, b)
    assert child.keys() == tensors.keys()
    for each in tensors:
        np.testing.assert_allclose(child[each], tensors[each], rtol=1e-6, err_msg=each)


def test_a_tensor_with_as_many_rows_is_refused_by_name(tmp_path):
    a, b, _ = permuted(tmp_path, {"model.layers.0.hash.table": table(V, 3), "model.bias": table(V)})
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b)
    message = str(caught.value)
    assert message.startswith("the tokenizers differ, and rows of these tensors may belong to tokens\n")
    assert "model.layers.0.hash.table [6, 3]" in message
    assert "model.bias [6]" in message
    assert "vocabulary_tensors={'model.bias': 'stay', 'model.layers.*.hash.table': 'stay'}" in message


def test_the_setting_makes_it_follow_or_stay(tmp_path):
    name = "model.layers.0.hash.table"
    a, b, tensors = permuted(tmp_path, {name: table(V, 3)}, [name])
    child, _ = child_of(tmp_path, a, b, vocabulary_tensors={name: "follow"})
    np.testing.assert_allclose(child[name], tensors[name], rtol=1e-6)
    child, _ = child_of(tmp_path, a, b, vocabulary_tensors={"model.layers.*.table": "stay"}, overwrite=True)
    assert not np.allclose(child[name], tensors[name])


def test_the_setting_wins_over_the_name(tmp_path):
    """An embedding of something else: its rows are equal in both models."""
    name = "audio.embed_tokens.weight"
    a, b, tensors = permuted(tmp_path, {name: table(V, 3)})
    child, _ = child_of(tmp_path, a, b, vocabulary_tensors={name: "stay"})
    np.testing.assert_allclose(child[name], tensors[name], rtol=1e-6)


def test_the_setting_names_tensors_that_there_are(tmp_path):
    a, b, _ = permuted(tmp_path, {})
    with pytest.raises(SettingsError, match=r"names no tensor\n  found: lm_heat\.weight"):
        plan_merge(a, b, vocabulary_tensors={"lm_heat.weight": "stay"})


@pytest.mark.parametrize("value", ["follow", {"x": "go"}, ["x"]])
def test_the_setting_has_two_values(value):
    with pytest.raises(SettingsError, match="invalid vocabulary_tensors"):
        plan_merge("a", "b", vocabulary_tensors=value)


def test_a_bias_within_a_layer_is_no_row_of_a_token(tmp_path):
    a, b, tensors = permuted(tmp_path, {"model.layers.0.q.bias": table(V)})
    child, _ = child_of(tmp_path, a, b)
    np.testing.assert_allclose(child["model.layers.0.q.bias"], tensors["model.layers.0.q.bias"], rtol=1e-6)


def test_integers_for_every_token_are_refused_as_well(tmp_path):
    """DeepSeek-V4 routes tokens to experts by such a table."""
    name = "model.layers.0.ffn.gate.tid2eid"
    a, b, tensors = permuted(tmp_path, {name: np.arange(2 * V).reshape(V, 2)})
    with pytest.raises(MismatchError, match=r"may belong to tokens\n  tensors: 1: model\.layers\.0\.ffn"):
        plan_merge(a, b)
    child, _ = child_of(tmp_path, a, b, vocabulary_tensors={name: "stay"})
    assert np.array_equal(child[name], tensors[name])
    with pytest.raises(MismatchError, match="this tensor's rows cannot be rearranged"):
        plan_merge(a, b, vocabulary_tensors={name: "follow"})


def test_equal_vocabularies_need_no_decision(tmp_path):
    tensors = tiny_tensors(1) | {"model.hash.table": table(V, 3)}
    a, b = (write_checkpoint(tmp_path / label, tensors=tensors) for label in "ab")
    assert plan_merge(a, b).warnings == ()


def test_another_vocabulary_stays_in_place(tmp_path):
    """Rows of sounds, far more than there are tokens."""
    name = "talker.model.embed_tokens.weight"
    a, b, tensors = permuted(tmp_path, {name: table(V + 2000, 2)})
    plan = plan_merge(a, b)
    assert any(f"{name} has 2006 rows: another vocabulary" in note for note in plan.notes)
    child, _ = child_of(tmp_path, a, b)
    np.testing.assert_allclose(child[name], tensors[name], rtol=1e-6)


def test_an_embedding_keeps_the_rows_that_it_has_in_addition_to_the_heads(tmp_path):
    """As in Mllama, whose last 8 rows are no tokens of the head."""
    more = 8
    parents = []
    for label, tokens in (("a", TOKENS), ("b", (*TOKENS, "new"))):
        tensors = tiny_tensors(1) | {EMBEDDING: table(len(tokens) + more, 4), HEAD: table(len(tokens), 4)}
        config = {"vocab_size": len(tokens)}
        parents.append(write_checkpoint(tmp_path / label, tensors=tensors, tokens=tokens, config=config))
    child, config = child_of(tmp_path, *parents)
    assert (len(child[HEAD]), len(child[EMBEDDING]), config["vocab_size"]) == (V + 1, V + 1 + more, V + 1)


def test_an_embedding_for_every_layer_has_a_size_of_its_own_in_the_config(tmp_path):
    name = "model.embed_tokens_per_layer.weight"
    parents = []
    for label, tokens in (("a", TOKENS), ("b", (*TOKENS, "new"))):
        n = len(tokens)
        tensors = tiny_tensors(1) | {EMBEDDING: table(n + 4, 4), HEAD: table(n + 4, 4), name: table(n, 3)}
        config = {"vocab_size": n + 4, "vocab_size_per_layer_input": n}
        parents.append(write_checkpoint(tmp_path / label, tensors=tensors, tokens=tokens, config=config))
    child, config = child_of(tmp_path, *parents)
    assert (len(child[HEAD]), config["vocab_size"]) == (V + 4, V + 4), "there is a row for the new token"
    assert (len(child[name]), config["vocab_size_per_layer_input"]) == (V + 1, V + 1)


def test_a_tensor_that_grows_as_the_vocabulary_does_follows_it(tmp_path):
    parents = []
    for label, tokens in (("a", TOKENS), ("b", (*TOKENS, "new"))):
        n = len(tokens)
        tensors = tiny_tensors(1) | {EMBEDDING: table(n, 4), HEAD: table(n, 4), "model.frequency": table(n)}
        config = {"vocab_size": n}
        parents.append(write_checkpoint(tmp_path / label, tensors=tensors, tokens=tokens, config=config))
    child, _ = child_of(tmp_path, *parents)
    of_b = load_file(parents[1] / "model.safetensors")["model.frequency"]
    assert child["model.frequency"].shape == (V + 1,)
    assert child["model.frequency"][-1] == of_b[-1], "copied from the only model that has it"


def test_another_part_with_the_same_vocabulary_grows_as_well(tmp_path):
    """And a part with as many rows of something else does not."""
    name = "model.patcher.embed_tokens.weight"
    parents = []
    for label, tokens in (("a", TOKENS), ("b", (*TOKENS, "new"))):
        n = len(tokens)
        tensors = tiny_tensors(1) | {EMBEDDING: table(n, 4), HEAD: table(n, 4), name: table(n, 3)}
        parts = {"patcher_config": {"vocab_size": n}, "vision_config": {"vocab_size": n}}
        parents.append(
            write_checkpoint(
                tmp_path / label, tensors=tensors, tokens=tokens, config={"vocab_size": n, **parts}
            )
        )
    child, config = child_of(tmp_path, *parents)
    assert (len(child[name]), config["patcher_config"]["vocab_size"]) == (V + 1, V + 1)
    assert config["vision_config"]["vocab_size"] == V
