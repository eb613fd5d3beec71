"""Where a merged model says that it came from, and which tokenizer belongs to it."""

from __future__ import annotations

import json

import pytest
from fusion_bench.modelpool import BaseModelPool, CausalLMPool
from transformers import AutoModelForCausalLM

from fusion_slerp import OutputError, PerplexityTaskPool, SlerpForCausalLM
from fusion_slerp.evaluation.building import tokenizer_of
from fusion_slerp.fusion_bench_plugin.merged_models import load_model
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel
from tests.models import TOKENS, save_transformers_model, tokenizer_json, write_json


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    return [str(save_transformers_model(folder / name, "llama", seed)) for seed, name in enumerate("ab")]


def streamed(parents, **settings):
    pool = CausalLMPool(dict(zip("xy", parents, strict=True)), tokenizer=None)
    return SlerpForCausalLM(t=0.5, **settings).run(pool)


def of_loaded(parents, **settings):
    models = {
        name: AutoModelForCausalLM.from_pretrained(parent) for name, parent in zip("xy", parents, strict=True)
    }
    child = SlerpForCausalLM(t=0.5, **settings).run(BaseModelPool(models))
    for model, parent in zip(models.values(), parents, strict=True):
        assert model.config._name_or_path == model.name_or_path == parent  # left as it was
    return child


def origins(model):
    """All that a trainer may load a reference model from."""
    named = {part.name_or_path for part in model.modules() if hasattr(part, "name_or_path")}
    return named | {model.config._name_or_path, model.config.name_or_path}


@pytest.mark.parametrize("merge", [streamed, of_loaded])
def test_a_merged_model_names_its_own_folder_or_nothing(parents, merge, tmp_path):
    assert origins(merge(parents)) == {""}
    child = merge(parents, model_save_path=str(tmp_path / "child"))
    assert origins(child) == {str(tmp_path / "child")}
    again = AutoModelForCausalLM.from_pretrained(child.config._name_or_path)
    assert again.lm_head.weight.equal(child.lm_head.weight)
    for file in (tmp_path / "child").glob("*config.json"):
        assert "name_or_path" not in json.loads(file.read_bytes())


@pytest.mark.parametrize("merge", [streamed, of_loaded])
def test_a_model_in_memory_is_evaluated_with_its_tokenizer(parents, merge, tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be")
    report = PerplexityTaskPool({"text": tmp_path / "text.txt"}).evaluate(merge(parents))
    assert report["text"]["tokens"] == 5


def test_a_union_of_tokens_is_a_tokenizer_in_memory_as_well(parents, tmp_path):
    save_transformers_model(tmp_path / "b", "llama", 1)
    write_json(tmp_path / "b/tokenizer.json", tokenizer_json((*TOKENS[:-1], "new")))
    child = streamed([parents[0], str(tmp_path / "b")])
    assert {"##s", "new"} < tokenizer_of(child).get_vocab().keys()
    assert child.get_input_embeddings().num_embeddings == len(TOKENS) + 1


def test_other_models_have_no_tokenizer_of_their_own(parents):
    assert tokenizer_of(AutoModelForCausalLM.from_pretrained(parents[0])) is None


def test_a_folder_of_another_machine_is_missed_by_name(tmp_path):
    with pytest.raises(
        OutputError, match=r"not on this machine\n  folder: .*child(.|\n)*Fix: .*model_save_path"
    ):
        load_model(PoolModel("x", "x"), tmp_path / "child")
