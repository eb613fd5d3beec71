"""Which names say that a tensor has a row for each token."""

import pytest

from fusion_slerp.tensor_names.vocabulary import ends, is_before_layers, role_of, roles

EMBEDDINGS = """
model.embed_tokens.weight model.language_model.embed_tokens.weight model.decoder.embed_tokens.weight
transformer.wte.weight transformer.w.weight transformer.tokens_embed.weight transformer.word_embedding.weight
transformer.embeddings.weight backbone.embeddings.weight rwkv.embeddings.weight gpt_neox.embed_in.weight
bert.embeddings.word_embeddings.weight model.embeddings.tok_embeddings.weight cpmant.input_embedding.weight
shared.weight model.layers.2.embed_tokens.weight
""".split()

HEADS = """
lm_head.weight lm_head.bias model.lm_head.bias language_model.lm_head.weight lm_head.linear.weight
lm_head.decoder.weight lm_head.decoder.bias lm_head.out_proj.weight cls.predictions.bias
cls.predictions.decoder.weight text_decoder.cls.predictions.decoder.bias generator_lm_head.bias
embed_out.weight output.weight output_projection.weight proj_out.weight head.weight decoder.weight
lm_loss.weight
pred_layer.proj.weight transformer.output_layer.weight model.layers.2.shared_head.head.weight
""".split()

OTHERS = """
model.layers.0.mlp.up_proj.weight model.layers.0.attention.output.weight lm_head.dense.weight
lm_head.layer_norm.bias model.decoder.weight model.layers.1.mlp.shared.weight model.layers.0.w.weight
model.embed_positions.weight transformer.wpe.weight model.embed_tokens.weight_scale
vision.embeddings.patch_embedding.weight model.norm.weight flag
""".split()


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(name):
    assert role_of(name) == "embedding"


@pytest.mark.parametrize("name", HEADS)
def test_heads(name):
    assert role_of(name) == "head"


@pytest.mark.parametrize("name", OTHERS)
def test_others(name):
    assert role_of(name) is None


def test_an_embedding_for_every_layer_has_a_role_of_its_own():
    assert role_of("model.embed_tokens_per_layer.weight") == "per layer"


def test_of_many_names_those_with_a_role_are_found():
    assert roles([*EMBEDDINGS, *OTHERS, *HEADS]) == {
        **dict.fromkeys(EMBEDDINGS, "embedding"),
        **dict.fromkeys(HEADS, "head"),
    }


def test_the_models_head_and_embedding_are_those_outside_the_layers():
    names = [
        "model.embed_tokens.weight",
        "model.layers.2.embed_tokens.weight",
        "lm_head.bias",
        "lm_head.weight",
    ]
    names.append("model.layers.2.shared_head.head.weight")
    assert ends(names) == ("lm_head.weight", "model.embed_tokens.weight")


def test_two_embeddings_are_none():
    assert ends(["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]) == (None, None)


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "transformer.wpe.weight", "backbone.embeddings.weight"]
)
def test_before_the_layers(name):
    assert is_before_layers(name)
    assert not is_before_layers("model.norm.weight")
