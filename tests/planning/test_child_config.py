"""The ids in the merged model's config.json and generation_config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp import SettingsError
from fusion_slerp.planning.child_config import by_path, child_configs, with_changes
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


# Where a changed value goes.

VISION = {"vision_config": {"vocab_size": 8, "dtype": "float32"}, "audio_config": {"vocab_size": 8}}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"vocab_size": 8}, {"vocab_size": 9}),
        ({}, {"vocab_size": 9}),
        ({"text_config": {"vocab_size": 8}}, {"text_config": {"vocab_size": 9}}),
        ({"text_config": {}}, {"text_config": {"vocab_size": 9}}),
        ({"llm_config": {"vocab_size": 8}}, {"llm_config": {"vocab_size": 9}}),
        (
            {"vocab_size": 8, "text_config": {"vocab_size": 8}},
            {"vocab_size": 9, "text_config": {"vocab_size": 9}},
        ),
        ({"vocab_size": 8, "text_config": {}}, {"vocab_size": 9, "text_config": {"vocab_size": 9}}),
        (
            {"vocab_size": 7, "text_config": {"vocab_size": 8}},
            {"vocab_size": 7, "text_config": {"vocab_size": 9}},
        ),
        ({"vocab_size": 8, "decoder_vocab_size": 8}, {"vocab_size": 9, "decoder_vocab_size": 9}),
        ({"vocab_size": 8, "decoder_vocab_size": 7}, {"vocab_size": 9, "decoder_vocab_size": 7}),
    ],
    ids=str,
)
def test_a_value_of_the_language_model_leaves_other_parts_alone(config, wanted):
    assert with_changes({**config, **VISION}, {"vocab_size": 9}) == {**wanted, **VISION}


def test_a_type_is_set_wherever_it_stands():
    config = {"dtype": "float32", "text_config": {"torch_dtype": "float32"}, **VISION}
    changed = with_changes(config, {"dtype": "bfloat16"})
    assert changed["dtype"] == changed["text_config"]["torch_dtype"] == "bfloat16"
    assert changed["vision_config"]["dtype"] == "bfloat16"
    assert with_changes({"text_config": {}}, {"dtype": "float16"})["torch_dtype"] == "float16"


def test_tying_is_written_where_each_release_of_transformers_reads_it():
    changed = with_changes({"text_config": {"tie_word_embeddings": True}}, {"tie_word_embeddings": False})
    assert changed == {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": False}}
    assert with_changes({}, {"tie_word_embeddings": True}) == {"tie_word_embeddings": True}


def test_a_path_is_meant_exactly():
    changed = with_changes({"vocab_size": 1, "text_config": {}}, {("text_config", "x", "y"): 2})
    assert changed == {"vocab_size": 1, "text_config": {"x": {"y": 2}}}


@pytest.mark.parametrize(
    ("of_a", "of_b", "wanted"),
    [
        ({"text_config": {"eos_token_id": 2}}, {"eos_token_id": 4}, {"text_config": {"eos_token_id": 4}}),
        ({"eos_token_id": 2, "text_config": {}}, {"eos_token_id": 4}, {"eos_token_id": 4, "text_config": {}}),
        (
            {"eos_token_id": 2, "text_config": {"eos_token_id": 2}},
            {"text_config": {"eos_token_id": 4}},
            {"eos_token_id": 4, "text_config": {"eos_token_id": 4}},
        ),
        (
            {"text_config": {"eos_token_id": 2}},
            {"eos_token_id": 4, "text_config": {}},
            {"text_config": {"eos_token_id": 4}},
        ),
        (
            {"image_token_id": 3, "text_config": {}},
            {"text_config": {"pad_token_id": 4}},
            {"image_token_id": 1, "text_config": {"pad_token_id": 4}},
        ),
        ({"text_config": {}}, {"image_token_id": 4}, {"text_config": {"image_token_id": 4}}),
    ],
    ids=str,
)
def test_the_givers_ids_stand_where_model_a_has_them(tmp_path, of_a, of_b, wanted):
    models = {
        "a": model_with(tmp_path / "a", TOKENS, of_a),
        "b": model_with(tmp_path / "b", TOKENS[::-1], of_b),
    }
    config = content(made(models, tokenizer="b")[0][CONFIG])
    assert {key: value for key, value in config.items() if key in wanted} == wanted
    assert "eos_token_id" in wanted or "eos_token_id" not in config


# The setting config_overrides.


def with_overrides(tmp_path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    a = model_with(tmp_path / "a", TOKENS, {"rope_scaling": {"factor": 2.0}, "text_config": {"x": 1}})
    b = model_with(tmp_path / "b", TOKENS)
    models = {"a": a, "b": b}
    configs = {label: model.config for label, model in models.items()}
    files, _ = child_configs(models, configs, {"vocab_size": 9}, aligned(models), by_path(overrides))
    return content(files[CONFIG])


def test_overrides_are_written_last_and_null_removes_a_key(tmp_path):
    config = with_overrides(
        tmp_path, {"text_config.vocab_size": 7, "text_config.x": None, "rope_scaling": None, "new": [1]}
    )
    assert config["text_config"] == {"vocab_size": 7}
    assert config["new"] == [1]
    assert "rope_scaling" not in config


def test_an_override_of_a_part_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError) as caught:
        with_overrides(tmp_path, {"texts_config.x": 1})
    message = str(caught.value)
    assert message.startswith("config_overrides names a part that config.json lacks\n  found: texts_config.x")
    assert "the config has rope_scaling, text_config" in message
