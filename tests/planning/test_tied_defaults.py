"""Whether transformers ties a head to the embedding, from a config with or without the key."""

import pytest

from fusion_slerp.planning.tied_defaults import ties_by_default, ties_in_4, ties_in_5, tying_paths


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"model_type": "llama"}, False),
        ({"model_type": "gemma"}, True),
        ({"model_type": "llama", "tie_word_embeddings": True}, True),
        ({"model_type": "gemma", "tie_word_embeddings": False}, False),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, False),
        ({"model_type": "llava", "text_config": {"model_type": "qwen2", "tie_word_embeddings": True}}, True),
        ({"model_type": "nobody-knows"}, None),
        ({"model_type": ["llama"]}, None),
        ({}, None),
    ],
)
def test_what_a_config_means(config, tied):
    assert ties_by_default(config) is tied


def test_where_the_versions_differ_the_one_that_wrote_the_config_counts():
    config = {"model_type": "internvl", "text_config": {"model_type": "qwen2"}}
    assert (ties_in_4(config), ties_in_5(config)) == (False, True)
    assert ties_by_default(config) is None
    assert ties_by_default({**config, "transformers_version": "4.57.1"}) is False
    assert ties_by_default({**config, "transformers_version": "5.2.0"}) is True


def test_transformers_5_reads_the_key_where_its_class_does():
    def config(model_type, text=None, top=None):
        inner = {"model_type": "opt"} | ({} if text is None else {"tie_word_embeddings": text})
        return {"model_type": model_type, "text_config": inner, "tie_word_embeddings": top}

    assert ties_in_5(config("blip-2", text=False, top=True)) is False
    assert ties_in_5(config("blip-2")) is True
    assert ties_in_5(config("gemma3", text=False)) is True
    assert ties_in_5(config("perception_lm", text=True)) is True
    assert ties_in_5(config("perception_lm", text=True, top=False)) is False
    assert ties_in_5(config("t5", top=False)) is True
    assert ties_in_5(config("mllama", top=True)) is False


def test_the_key_is_written_at_the_top_and_in_the_language_models_part():
    assert tying_paths({"model_type": "llama"}) == (("tie_word_embeddings",),)
    assert tying_paths({"text_config": {}})[1] == ("text_config", "tie_word_embeddings")
