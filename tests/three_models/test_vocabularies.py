"""Three vocabularies: rows are merged by the models that have them."""

import json
from pathlib import Path

import numpy as np
import pytest

from fusion_slerp import merge, verify
from tests.models import TOKENS, tiny_tensors, write_checkpoint
from tests.three_models.models import summed, weights_of

WORDS = {"a": [*TOKENS, "apple", "ab", "able"], "b": ["ab", *TOKENS[::-1]], "c": [*TOKENS, "cloud"]}


@pytest.fixture
def speaking(tmp_path) -> dict[str, Path]:
    """Three models with different tokens, in one folder."""
    found = {}
    for seed, (label, words) in enumerate(WORDS.items(), 1):
        rng = np.random.default_rng(seed)
        rows = {
            name: rng.standard_normal((len(words), 4)).astype("float32")
            for name in ("lm_head.weight", "model.embed_tokens.weight")
        }
        found[label] = write_checkpoint(
            tmp_path / "models" / label,
            tensors=tiny_tensors(seed) | rows,
            tokens=words,
            config={"vocab_size": len(words)},
        )
    return found


def owners_of(token: str) -> str:
    return "".join(label for label, words in WORDS.items() if token in words)


def test_rows_of_three_vocabularies_are_merged_by_their_owners(tmp_path, speaking):
    weights = {"a": 0.5, "b": 0.3, "c": 0.9}
    child = tmp_path / "models/child"
    result = merge(*speaking.values(), out=child, method="linear", weight=weights)
    vocab = json.loads((child / "tokenizer.json").read_text())["model"]["vocab"]
    assert set(vocab) == {token for words in WORDS.values() for token in words}
    models = {label: weights_of(folder) for label, folder in speaking.items()}
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        found = weights_of(child)[name]
        assert len(found) == len(vocab)
        for token, row in vocab.items():
            owners = owners_of(token)
            rows = [models[label][name][WORDS[label].index(token)] for label in owners]
            expected = rows[0] if len(rows) == 1 else summed(rows, [weights[label] for label in owners])
            np.testing.assert_array_equal(found[row], expected, f"{name} {token}")
    (head,) = (row for row in result.report if row.name == "lm_head.weight")
    assert str(head.rows) == "7 merged, 2 copied from a, 1 copied from c"
    assert result.nbytes_read == result.plan.nbytes_read
    assert verify(child, inputs=True, recompute="all").ok


def test_a_token_of_two_models_is_merged_by_these_two(tmp_path, speaking):
    """`ab` is a's and b's: their weights are normalised without c's."""
    assert owners_of("ab") == "ab"
    merge(*speaking.values(), out=tmp_path / "child", method="linear", weight={"a": 1, "b": 3, "c": 100})
    row = json.loads((tmp_path / "child/tokenizer.json").read_text())["model"]["vocab"]["ab"]
    rows = [weights_of(speaking[label])["lm_head.weight"][WORDS[label].index("ab")] for label in ("a", "b")]
    np.testing.assert_array_equal(weights_of(tmp_path / "child")["lm_head.weight"][row], summed(rows, [1, 3]))


@pytest.mark.parametrize("label", ["a", "b", "c"])
def test_the_tokenizer_of_any_of_them_can_be_asked_for(tmp_path, speaking, label):
    merge(*speaking.values(), out=tmp_path / "child", method="linear", tokenizer=label)
    expected = (speaking[label] / "tokenizer.json").read_bytes()
    assert (tmp_path / "child/tokenizer.json").read_bytes() == expected
    assert len(weights_of(tmp_path / "child")["lm_head.weight"]) == len(WORDS[label])


def test_every_label_of_a_model_may_stand_in_tokens(tmp_path, speaking):
    tokens = {"be": {"source": "c", "force": True}, "ab": {"source": "b", "force": True}}
    merge(*speaking.values(), out=tmp_path / "child", method="linear", tokens=tokens)
    head = weights_of(tmp_path / "child")["lm_head.weight"]
    vocab = json.loads((tmp_path / "child/tokenizer.json").read_text())["model"]["vocab"]
    for token, label in (("be", "c"), ("ab", "b")):
        row = weights_of(speaking[label])["lm_head.weight"][WORDS[label].index(token)]
        np.testing.assert_array_equal(head[vocab[token]], row)
