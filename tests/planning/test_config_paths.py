"""The part of a config that describes the language model."""

import pytest

from fusion_slerp.planning.config_paths import text_part, text_path, value_at, with_value


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"model_type": "llama"}, ()),
        ({"text_config": {"a": 1}, "vision_config": {}}, ("text_config",)),
        ({"language_config": {}}, ("language_config",)),
        ({"llm_config": {}}, ("llm_config",)),
        ({"thinker_config": {"text_config": {}}, "talker_config": {}}, ("thinker_config", "text_config")),
        ({"vlm_config": {"text_config": {}}}, ("vlm_config", "text_config")),
        ({"encoder": {}, "decoder": {}}, ("decoder",)),
        ({"model_type": "dia", "decoder_config": {}}, ("decoder_config",)),
        ({"model_type": "blt", "decoder_config": {}}, ()),
        ({"text_config": None}, ()),
        ({"model_type": {}, "text_config": "bert"}, ()),
    ],
)
def test_path_to_the_language_model(config, path):
    assert text_path(config) == path
    assert text_part(config) == value_at(config, path)


def test_a_value_is_set_in_a_copy():
    config = {"text_config": {"vocab_size": 8}, "vision_config": {"vocab_size": 4}}
    changed = with_value(config, ("text_config", "vocab_size"), 9)
    assert changed == {"text_config": {"vocab_size": 9}, "vision_config": {"vocab_size": 4}}
    assert config["text_config"]["vocab_size"] == 8
    assert with_value({"part": 1}, ("part", "key"), 2) == {"part": {"key": 2}}


def test_nothing_at_a_path_is_none():
    assert value_at({"a": {"b": 1}}, ("a", "c")) is None
    assert value_at({"a": 1}, ("a", "c")) is None
