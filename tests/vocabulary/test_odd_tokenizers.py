"""Tokenizer files that are odd, damaged or hostile: a good child, a warning, or one clear error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fusion_slerp import FusionSlerpError, MismatchError, SettingsError, merge, plan_merge
from fusion_slerp.vocabulary.tokens import numbered
from tests.models import ROWS, TOKENS, tokenizer_json, write_checkpoint, write_json
from tests.tokenizer_kinds import KINDS, added_token, tokenizer

HUGE = 10**9


@pytest.fixture
def parents(tmp_path) -> tuple[Path, Path]:
    """Of six rows each; b's last token is its own, so that tokenizers must be united."""
    a, b = (write_checkpoint(tmp_path / "models" / name, seed=i) for i, name in enumerate("ab"))
    write_json(b / "tokenizer.json", tokenizer_json([*TOKENS[:5], "new"]))
    return a, b


def change(folder: Path, **changes: Any) -> None:
    """Replaces parts of a tokenizer.json; None removes one."""
    content = json.loads((folder / "tokenizer.json").read_text()) | changes
    write_json(folder / "tokenizer.json", {k: v for k, v in content.items() if v is not ...})


def change_vocabulary(folder: Path, **tokens: int) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= tokens
    write_json(folder / "tokenizer.json", content)


@pytest.mark.parametrize("value", [..., None], ids=["none", "null"])
@pytest.mark.parametrize("where", ["a", "b", "ab"])
def test_no_list_of_added_tokens(tmp_path, parents, where, value):
    for name, folder in zip("ab", parents, strict=True):
        if name in where:
            change(folder, added_tokens=value)
    plan = merge(*parents, out=tmp_path / "child").plan
    assert not any("compared" in warning for warning in plan.warnings)
    loaded = Tokenizer.from_file(str(tmp_path / "child/tokenizer.json"))
    assert loaded.get_vocab() == plan.tokenizer.rows == {t: i for i, t in enumerate([*TOKENS, "new"])}


def test_two_tokens_on_one_row(tmp_path, parents):
    change_vocabulary(parents[0], twin=3)
    plan = merge(*parents, out=tmp_path / "child").plan
    assert "tokens of the merged model share a row: 'or' and 'twin' 3" in plan.warnings
    assert (plan.tokenizer.rows or {})["twin"] == (plan.tokenizer.rows or {})["or"] == 3


def test_an_added_token_that_is_in_the_vocabulary_too(tmp_path, parents):
    """With another id: the library takes the vocabulary's."""
    change(parents[0], added_tokens=[added_token("be", 77), added_token("<x>", 6)])
    plan = merge(*parents, out=tmp_path / "child").plan
    loaded = Tokenizer.from_file(str(tmp_path / "child/tokenizer.json"))
    assert loaded.get_vocab() == plan.tokenizer.rows
    assert (plan.tokenizer.rows or {})["be"] == 2
    assert any("'be' 77, loaded as 2" in warning for warning in plan.warnings)


def test_ids_that_collide(tmp_path, parents):
    """Two added tokens, and one of the vocabulary, all claim one id."""
    change(parents[0], added_tokens=[added_token("<x>", 5), added_token("<y>", 5)])
    plan = merge(*parents, out=tmp_path / "child").plan
    loaded = Tokenizer.from_file(str(tmp_path / "child/tokenizer.json"))
    assert loaded.get_vocab() == plan.tokenizer.rows
    assert sorted((plan.tokenizer.rows or {}).values()) == list(range(9))


def test_an_empty_vocabulary_tells_nothing(parents):
    model = {"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"}
    change(parents[1], model=model)
    plan = plan_merge(*parents)
    assert any("could not be compared" in warning for warning in plan.warnings)
    assert {tensor.rows for tensor in plan.tensors} == {None}


@pytest.mark.parametrize("text", ["снег", "雪", "\U0001f600", "\u2028", "\0", "'\"\\", "a\nb"])
def test_tokens_of_any_text(tmp_path, parents, text):
    for folder, row in zip(parents, (4, 5), strict=True):
        content = tokenizer_json([text if i == row else f"{folder.name}{i}" for i in range(ROWS)])
        write_json(folder / "tokenizer.json", content)
    plan = merge(*parents, out=tmp_path / "child").plan
    loaded = Tokenizer.from_file(str(tmp_path / "child/tokenizer.json"))
    assert loaded.get_vocab() == plan.tokenizer.rows
    (head,) = (tensor for tensor in plan.tensors if tensor.out.name == "lm_head.weight")
    assert head.rows is not None
    assert (head.rows.of["a"][4], head.rows.of["b"][4]) == (4, 5)


@pytest.mark.parametrize("where", [0, 1])
def test_lone_surrogates_are_written_as_they_were_read(tmp_path, parents, where):
    """No UTF-8 stands for them; JSON has an escape, and that is what comes back."""
    write_json(parents[where] / "tokenizer.json", tokenizer_json([*TOKENS[:4], "\ud800", "x\udfff"]))
    write_json(parents[0] / "tokenizer_config.json", {"eos_token": "\ud800", "added_tokens_decoder": {}})
    merge(*parents, out=tmp_path / "child")
    written = json.loads((tmp_path / "child/tokenizer.json").read_text(encoding="utf-8"))
    assert {"\ud800", "x\udfff"} <= written["model"]["vocab"].keys()
    with pytest.raises(SettingsError, match="invalid tokens"):
        plan_merge(*parents, tokens={"\ud800": "a"})


# --- ids that no model has rows for -----------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["a", "b", "union", "folder"])
def test_a_huge_id_is_refused(tmp_path, parents, setting):
    """A row for each id would be gigabytes; the token and the file are named."""
    giver = {"a": parents[0], "b": parents[1], "union": parents[0], "folder": tmp_path / "third"}[setting]
    if setting == "folder":
        giver.mkdir()
        write_json(giver / "tokenizer.json", tokenizer_json())
    change_vocabulary(giver, far=HUGE)
    message = rf"far beyond(.|\n)*{giver}/tokenizer.json\n  tokens: 'far' {HUGE}\b(.|\n)*6 and 6 rows\nFix: "
    with pytest.raises(MismatchError, match=message):
        merge(*parents, out=tmp_path / "child", tokenizer=str(giver) if setting == "folder" else setting)
    assert not (tmp_path / "child").exists()


def test_a_huge_id_in_both(parents):
    for folder in parents:
        change_vocabulary(folder, far=HUGE)
    with pytest.raises(MismatchError, match="far beyond"):
        plan_merge(*parents)


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_a_huge_id_in_an_older_file(parents, name):
    """The library that loads such files numbers added tokens from the end of the vocabulary."""
    for folder in parents:
        (folder / "tokenizer.json").unlink()
        write_json(folder / "vocab.json", {token: row for row, token in enumerate(TOKENS)})
    decoder = {"added_tokens_decoder": {str(HUGE): {"content": "far"}}}
    write_json(parents[0] / name, {"far": HUGE} if name == "added_tokens.json" else decoder)
    plan = plan_merge(*parents)
    assert (plan.tokenizer.rows or {})["far"] == ROWS
    assert any(f"'far' {HUGE}, loaded as {ROWS}" in warning for warning in plan.warnings)


def test_a_huge_id_of_a_token_that_the_child_renumbers(tmp_path, parents):
    """b's tokens are numbered after a's, and added tokens from the end of the vocabulary."""
    change_vocabulary(parents[1], far=HUGE)
    change(parents[0], added_tokens=[added_token("<x>", HUGE)])
    plan = merge(*parents, out=tmp_path / "child").plan
    assert dict(plan.tokenizer.rows or {}) == {
        token: row for row, token in enumerate([*TOKENS, "<x>", "new", "far"])
    }
    assert f"{parents[1]}: 1 token with an id beyond its 6 rows" in plan.warnings


# --- damaged files ------------------------------------------------------------------------------------------

DAMAGED_CONFIGS = [
    "{",
    "[]",
    '{"added_tokens_decoder": 5}',
    '{"added_tokens_decoder": {"x": {}}}',
    "\x80",
    "[" * 9999,
]


@pytest.mark.parametrize("text", DAMAGED_CONFIGS, ids=range(len(DAMAGED_CONFIGS)))
@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "chat_template.json"])
@pytest.mark.parametrize("added", [(), ["<b1>"]], ids=["words", "added"])
def test_damaged_files_next_to_a_tokenizer(tmp_path, parents, name, text, added):
    """A union is made without them, or refused if it would have to rewrite them."""
    tokens = TOKENS if added else [*TOKENS[:5], "new"]
    write_json(parents[1] / "tokenizer.json", tokenizer_json(tokens, dict.fromkeys(added, 6)))
    write_json(parents[0] / "tokenizer.json", tokenizer_json(added={"<a1>": 6}))
    (parents[0] / name).write_bytes(text.encode("latin-1"))
    try:
        plan = merge(*parents, out=tmp_path / "child").plan
    except FusionSlerpError as error:
        assert "cannot be united" in str(error) and "Fix: " in str(error)  # noqa: PT017, PT018
        assert added
    else:
        rows = Tokenizer.from_file(str(tmp_path / "child/tokenizer.json")).get_vocab()
        assert rows == plan.tokenizer.rows


DAMAGED_MODELS = [
    {"type": "BPE", "vocab": {"a": 0, "b": 1}},
    {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": 5},
    {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a"], "a", 7]},
    {"type": "Unigram", "vocab": [["a", None], ["b", "x"]]},
    {"type": "Unigram", "vocab": {"a": 0, "b": 1}},
    {"type": 5, "vocab": {"a": 0, "b": 1}},
    {"vocab": {"a": 0, "b": 1}, "merges": None},
]


@pytest.mark.parametrize("model", DAMAGED_MODELS, ids=range(len(DAMAGED_MODELS)))
@pytest.mark.parametrize("where", [0, 1])
def test_damaged_models(parents, model, where):
    """One of their kind on the other side, so that it comes to a union."""
    vocab = model["vocab"]
    other = [["a", -1.0], ["c", -2.0]] if isinstance(vocab, list) else {"a": 0, "c": 1}
    sound = {"type": "BPE", "merges": [], **model, "vocab": other}
    if not isinstance(sound["merges"], list):
        sound["merges"] = []
    change(parents[where], model=model)
    change(parents[1 - where], model=sound)
    try:
        plan_merge(*parents)
    except FusionSlerpError as error:
        assert "cannot be united" in str(error) and "Fix: " in str(error)  # noqa: PT017, PT018


# --- the count of the library -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_rows_are_counted_as_the_library_counts(kind, data):
    """Added tokens in any order, with any ids, some of them empty or of the vocabulary."""
    content = tokenizer(kind, ["hello"])
    vocab = content["model"]["vocab"]
    ordinary = {token: row for row, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
    names = st.sampled_from(["<x>", "<y>", "<z>", "", *list(ordinary)[:3]])
    drawn = data.draw(st.lists(st.tuples(names, st.integers(0, 500), st.booleans()), max_size=6))
    content["added_tokens"] = [added_token(name, row, special=special) for name, row, special in drawn]
    loaded = Tokenizer.from_str(json.dumps(content)).get_vocab(with_added_tokens=True)
    assert numbered(ordinary, len(vocab), [name for name, *_ in drawn]) == loaded


def test_every_row_of_the_child_is_made(tmp_path, parents):
    """Gaps in the ids are rows of the child all the same, finite ones."""
    from safetensors.numpy import load_file

    change_vocabulary(parents[0], far=11)
    merge(*parents, out=tmp_path / "child")
    head = load_file(tmp_path / "child/model.safetensors")["lm_head.weight"]
    assert len(head) == 13
    assert np.isfinite(head).all()


def test_equal_files_with_other_tokens_next_to_them(parents):
    """The same tokenizer.json, and a token that only b's added_tokens.json has."""
    for folder in parents:
        write_json(folder / "tokenizer.json", tokenizer_json())
    write_json(parents[1] / "added_tokens.json", {"<late>": ROWS})
    tokenizer = plan_merge(*parents).tokenizer
    assert (tokenizer.giver, (tokenizer.rows or {}).get("<late>")) == ("b", ROWS)
