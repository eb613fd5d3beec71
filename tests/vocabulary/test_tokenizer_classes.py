"""Rows of added tokens, as the installed transformers numbers them for each kind of class."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoTokenizer

from fusion_slerp.vocabulary.tokenizer_classes import REBUILT, class_of
from fusion_slerp.vocabulary.tokens import read_tokens
from tests.models import write_json
from tests.tokenizer_kinds import added_token, tokenizer
from tests.vocabulary.aligned import aligned, files_of, models_with

CLASSES = {  # the class, and the kind of tokenizer.json next to it
    "PreTrainedTokenizerFast": "byte-level BPE",
    "TokenizersBackend": "byte-level BPE",
    "GPT2Tokenizer": "byte-level BPE",
    "GPT2TokenizerFast": "byte-level BPE",
    "Qwen2Tokenizer": "byte-level BPE",
    "LlamaTokenizerFast": "byte-level BPE",
    "LlamaTokenizer": "byte-fallback BPE",
}

LISTS: dict[str, tuple[list[tuple[str, int]], list[tuple[str, int]] | None]] = {
    "as numbered": ([("<x>", 0), ("<y>", 1)], [("<x>", 0), ("<y>", 1)]),
    "a gap": ([("<x>", 2), ("<y>", 7)], [("<x>", 2), ("<y>", 7)]),
    "a gap, one list": ([("<x>", 2), ("<y>", 7)], None),
    "backward": ([("<y>", 1), ("<x>", 0)], [("<x>", 0), ("<y>", 1)]),
    "backward, one list": ([("<y>", 1), ("<x>", 0)], None),
    "more in the config": ([("<y>", 1)], [("<x>", 0), ("<y>", 1)]),
    "other ids in the config": ([("<x>", 0), ("<y>", 1)], [("<x>", 1), ("<y>", 0)]),
    "the config takes a row of the vocabulary": ([], [("<x>", -3)]),
}
"""The tokens in tokenizer.json and in tokenizer_config.json, with their ids after the vocabulary."""


def content_of(kind: str, listed: list[tuple[str, int]]) -> dict[str, Any]:
    content = tokenizer(kind, ["hello"])
    n = len(content["model"]["vocab"])
    return content | {"added_tokens": [added_token(token, n + i, special=True) for token, i in listed]}


def config_of(name: str, kind: str, listed: list[tuple[str, int]] | None) -> dict[str, Any]:
    n = len(tokenizer(kind, ["hello"])["model"]["vocab"])
    first = next(iter(tokenizer(kind, [])["model"]["vocab"]))
    config: dict[str, Any] = {
        "tokenizer_class": name,
        **dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), first),
    }
    if listed is not None:
        entries = [added_token(token, n + i, special=True) for token, i in listed]
        config["added_tokens_decoder"] = {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in entries
        }
    return config


def write(
    folder: Path, name: str, listed: list[tuple[str, int]], in_config: list[tuple[str, int]] | None
) -> Path:
    write_json(folder / "tokenizer.json", content_of(CLASSES[name], listed))
    write_json(folder / "tokenizer_config.json", config_of(name, CLASSES[name], in_config))
    return folder


def loaded(folder: Path) -> Mapping[str, int]:
    return AutoTokenizer.from_pretrained(folder).get_vocab()


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("case", LISTS)
def test_rows_are_those_of_the_class(tmp_path, name, case):
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    tokens = read_tokens(write(tmp_path, name, *LISTS[case]))
    assert tokens is not None
    assert dict(tokens.rows) == loaded(tmp_path)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("case", LISTS)
def test_a_union_has_one_row_for_a_token_whatever_loads_it(tmp_path, name, case):
    """Both lists of the child agree, so that their order and the class make no difference."""
    kind = CLASSES[name]
    models = models_with(
        tmp_path, a=tokenizer(kind, ["hello"]), b=tokenizer(kind, ["hello"], ["<b1>", "<b2>"])
    )
    write(models["a"].folder, name, *LISTS[case])
    alignment = aligned(models)
    child = files_of(alignment, tmp_path / "child")
    write_json(child / "config.json", {"model_type": "llama"})
    for each in (name, "PreTrainedTokenizerFast"):
        config = json.loads((child / "tokenizer_config.json").read_text())
        write_json(child / "tokenizer_config.json", config | {"tokenizer_class": each})
        assert loaded(child) == alignment.child
    decoder = json.loads((child / "tokenizer_config.json").read_text()).get("added_tokens_decoder")
    if decoder is not None:
        assert {
            entry["content"]: int(row) for row, entry in decoder.items()
        }.items() <= alignment.child.items()


@pytest.mark.parametrize("name", CLASSES)
def test_ordinary_tokens_alone_make_no_old_ids_stay(tmp_path, name):
    """b has a word more: a's added tokens keep their rows, in the vocabulary of the union."""
    kind = CLASSES[name]
    models = models_with(tmp_path, a=tokenizer(kind, ["hello"]), b=tokenizer(kind, ["hello", "world"]))
    write(models["a"].folder, name, *LISTS["a gap"])
    alignment = aligned(models)
    child = files_of(alignment, tmp_path / "child")
    write_json(child / "config.json", {"model_type": "llama"})
    assert loaded(child) == alignment.child
    decoder = json.loads((child / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {entry["content"]: int(row) for row, entry in decoder.items()}.items() <= alignment.child.items()


def test_tokens_that_the_config_leaves_out(tmp_path):
    """transformers 5 does not know them: that is reported, and a union lists them again."""
    listed = [("<x>", 0), ("<y>", 1)]
    kind = CLASSES["GPT2Tokenizer"]
    models = models_with(tmp_path, a=tokenizer(kind, ["hello"]), b=tokenizer(kind, ["hello"], ["<b1>"]))
    write(models["a"].folder, "GPT2Tokenizer", listed, listed[1:])
    assert "<x>" not in loaded(models["a"].folder)
    alignment = aligned(models)
    assert (
        f"{models['a'].source}: the list of added tokens in tokenizer_config.json lacks 1 added token of "
        "tokenizer.json, so transformers 5 ignores '<x>'"
    ) in alignment.remarks
    child = files_of(alignment, tmp_path / "child")
    write_json(child / "config.json", {"model_type": "llama"})
    assert loaded(child) == alignment.child


def test_flags_are_those_of_the_config(tmp_path):
    """They take precedence over tokenizer.json's, and a named special token is special."""
    listed = [("<x>", 0), ("<y>", 1)]
    write(tmp_path, "GPT2Tokenizer", listed, listed)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"][str(N_HELLO)] |= {"lstrip": True, "special": False}
    config["added_tokens_decoder"][str(N_HELLO + 1)]["special"] = False
    write_json(tmp_path / "tokenizer_config.json", config | {"pad_token": "<y>"})
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    tokens = read_tokens(tmp_path)
    assert tokens is not None
    backend = json.loads(AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.to_str())
    flags = {entry.pop("content"): entry for entry in backend["added_tokens"] if entry.pop("id") >= N_HELLO}
    assert {token: dict(tokens.added[token]) for token in ("<x>", "<y>")} == flags


N_HELLO = len(tokenizer("byte-level BPE", ["hello"])["model"]["vocab"])


@pytest.mark.long
@pytest.mark.skipif(
    not transformers.__version__.startswith("5.23."), reason="the table is of transformers 5.23"
)
def test_the_table_of_classes():
    """Classes that build a tokenizer from its vocabulary, in the installed transformers."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    names = {name for name in TOKENIZER_MAPPING_NAMES.values() if name}
    names |= {name for name in dir(transformers) if "Tokenizer" in name}
    found = {name: tokenizer_class_from_name(name) for name in names}
    rebuilt = {
        class_of({"tokenizer_class": name})
        for name, each in found.items()
        if isinstance(each, type)
        and issubclass(each, TokenizersBackend)
        and each is not TokenizersBackend
        and "__init__" in each.__dict__
    }
    assert rebuilt == REBUILT
