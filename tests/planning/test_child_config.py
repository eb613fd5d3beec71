"""The ids in the merged model's config.json and generation_config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp.planning.child_config import child_configs
from fusion_slerp.sources.folder import Checkpoint
from tests.vocabulary.aligned import aligned, model_with

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "word"]
ORDERS = {"a": TOKENS, "b": TOKENS[::-1], "c": [TOKENS[i] for i in (3, 0, 4, 1, 2)]}


def made(
    models: Mapping[str, Checkpoint], changes: Mapping[str, Any] | None = None, **options: Any
) -> tuple[dict[str, Path | bytes], list[str]]:
    configs = {label: model.config for label, model in models.items()}
    return child_configs(models, configs, changes or {}, aligned(models, **options))


def content(file: Path | bytes) -> dict[str, Any]:
    return json.loads(file if isinstance(file, bytes) else file.read_bytes())


def ids(label: str, **tokens: str) -> dict[str, int]:
    return {key: ORDERS[label].index(token) for key, token in tokens.items()}


@pytest.mark.parametrize("tokenizer", ["a", "union"])
def test_the_other_parents_generation_config_gets_the_childs_ids(tmp_path, tokenizer):
    """The child has a's tokenizer unchanged, but only b has the file: its ids are b's rows."""
    words = [f"w{i}" for i in range(10)]
    a = model_with(tmp_path / "a", words)
    b = model_with(tmp_path / "b", words[::-1], None, {"eos_token_id": [2, 0], "suppress_tokens": [1]})
    files, _ = made({"a": a, "b": b}, tokenizer=tokenizer)
    assert content(files[GENERATION]) == {"eos_token_id": [7, 9], "suppress_tokens": [8]}
    assert files[CONFIG] == a.folder / CONFIG


@pytest.mark.parametrize("giver", ["a", "b", "c"])
def test_the_ids_of_the_tokenizers_giver_win(tmp_path, giver):
    """Each model ends with a token of its own; an id that only model a has is translated."""
    ends = {"a": "</s>", "b": "<pad>", "c": "word"}
    models = {
        label: model_with(
            tmp_path / label,
            ORDERS[label],
            ids(label, eos_token_id=ends[label], **({"bos_token_id": "<s>"} if label == "a" else {})),
        )
        for label in "abc"
    }
    files, remarks = made(models, tokenizer=giver)
    found = {key: value for key, value in content(files[CONFIG]).items() if key.endswith("_token_id")}
    assert found == ids(giver, eos_token_id=ends[giver], bos_token_id="<s>")
    assert remarks == []
    assert (files[CONFIG] == models["a"].folder / CONFIG) == (giver == "a")


@pytest.mark.parametrize("giver", ["a", "b", "c"])
@pytest.mark.parametrize("having", ["abc", "ac", "bc", "c", ""])
def test_whose_generation_config_it_is(tmp_path, giver, having):
    """That of the tokenizer's model, else the first; its ids are translated."""
    models = {
        label: model_with(
            tmp_path / label,
            ORDERS[label],
            None,
            ids(label, eos_token_id="word") | {"of": label} if label in having else None,
        )
        for label in "abc"
    }
    files, _ = made(models, tokenizer=giver)
    if not having:
        assert GENERATION not in files
        return
    whose = giver if giver in having else having[0]
    assert content(files[GENERATION]) == ids(giver, eos_token_id="word") | {"of": whose}
    assert (files[GENERATION] == models[whose].folder / GENERATION) == (whose == giver)


def test_an_id_that_the_child_lacks(tmp_path):
    models = {
        "a": model_with(tmp_path / "a", TOKENS[:3]),
        "b": model_with(tmp_path / "b", TOKENS[:3]),
        "c": model_with(tmp_path / "c", TOKENS, None, {"eos_token_id": [2, 4]}),
    }
    files, remarks = made(models, tokenizer="a")
    assert content(files[GENERATION]) == {"eos_token_id": [2]}
    assert remarks == ["eos_token_id [4] is not a token of the merged model and is left out"]


def test_configs_of_some_layers_and_changes(tmp_path):
    """Model a's config after slices is the base; it is written if it differs from its file."""
    models = {label: model_with(tmp_path / label, TOKENS) for label in "abc"}
    configs = {label: {**model.config, "num_hidden_layers": 7} for label, model in models.items()}
    alignment = aligned(models)
    files, _ = child_configs(models, configs, {"dtype": "bfloat16", "vocab_size": 64}, alignment)
    wanted = {"num_hidden_layers": 7, "torch_dtype": "bfloat16", "vocab_size": 64}
    assert content(files[CONFIG]) == {**models["a"].config, **wanted}
    assert isinstance(files[CONFIG], bytes)
    unchanged = {label: model.config for label, model in models.items()}
    files, _ = child_configs(models, unchanged, {}, alignment)
    assert files == {CONFIG: models["a"].folder / CONFIG}
