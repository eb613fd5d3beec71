"""The types of the merged model's tensors."""

import pytest

from fusion_slerp.planning.matching import Match
from fusion_slerp.planning.output_types import OutputTypes
from tests.planning.test_compatibility import checkpoint

BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
ROUTED = {"model_type": "glm4_moe"}
"""transformers keeps the routing bias of this type in float32."""


def type_of(name: str, a: str, b: str, wanted: str | None, config=ROUTED) -> str:
    models = {label: checkpoint(label, None, {name: (code, 2)}) for label, code in (("a", a), ("b", b))}
    match = Match(name, {label: model.tensors[name] for label, model in models.items()})
    return OutputTypes(wanted, config).of(match, match.first.dtype).name


@pytest.mark.parametrize("wanted", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("codes", ["F32 F32", "F32 BF16", "BF16 F32"])
def test_what_transformers_keeps_in_float32_stays_float32(codes, wanted):
    assert type_of(BIAS, *codes.split(), wanted) == "float32"


def test_it_is_not_widened_where_no_model_stores_it_in_float32():
    assert type_of(BIAS, "BF16", "BF16", None) == "bfloat16"


def test_other_tensors_and_other_types_of_models_are_as_wanted():
    assert type_of("model.layers.1.mlp.up_proj.weight", "F32", "F32", "bfloat16") == "bfloat16"
    assert type_of(BIAS, "F32", "F32", "bfloat16", {"model_type": "llama"}) == "bfloat16"
    assert type_of(BIAS, "F32", "F32", "float64") == "float64"


def test_integers_have_no_other_type():
    assert type_of("model.steps", "I64", "I64", "bfloat16") == "int64"
