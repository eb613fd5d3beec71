"""The card credits FusionBench if it ran the merge; no file of the merged model has a private path."""

import json

from fusion_bench.modelpool import BaseModelPool, CausalLMPool
from transformers import AutoModelForCausalLM

from fusion_slerp import SlerpForCausalLM, merge
from tests.models import contents, save_transformers_model

CREDIT = b" in [FusionBench](https://github.com/tanganke/fusion_bench)."


def models(folder):
    """Two models with paths in their configs, as transformers 4 saves them."""
    for seed, name in enumerate("ab"):
        save_transformers_model(folder / name, "llama", seed)
        for file in (folder / name).glob("*config.json"):
            content = json.loads(file.read_bytes()) | {
                "_name_or_path": str(folder),
                "name_or_path": "/home/me",
            }
            file.write_text(json.dumps(content))
    return {"plays": str(folder / "a"), "code": str(folder / "b")}


def assert_public(folder, tmp_path):
    for name, data in contents(folder).items():
        assert str(tmp_path).encode() not in data, name
        assert b"/home/me" not in data, name
    assert CREDIT in (folder / "README.md").read_bytes()


def test_a_merge_of_checkpoints(tmp_path):
    pool = models(tmp_path)
    method = SlerpForCausalLM(t=0.3, model_save_path=str(tmp_path / "one"))
    method.run(CausalLMPool(pool, tokenizer=pool["plays"]))
    assert_public(tmp_path / "one", tmp_path)
    merge(*pool.values(), out=tmp_path / "same/one", t=0.3, tokenizer="a")
    one, same = contents(tmp_path / "one"), contents(tmp_path / "same/one")
    assert {name for name in one if one[name] != same[name]} == {"README.md", "merge_manifest.json"}
    assert one["README.md"].replace(CREDIT, b".") == same["README.md"]


def test_a_merge_of_models_in_memory(tmp_path):
    pool = models(tmp_path)
    loaded = {name: AutoModelForCausalLM.from_pretrained(folder) for name, folder in pool.items()}
    SlerpForCausalLM(t=0.3, model_save_path=str(tmp_path / "one")).run(BaseModelPool(loaded))
    assert_public(tmp_path / "one", tmp_path)
    for model in loaded.values():
        model.config.somewhere = {"_name_or_path": "/home/me"}
    SlerpForCausalLM(t=0.3, model_save_path=str(tmp_path / "two")).run(BaseModelPool(loaded))
    assert_public(tmp_path / "two", tmp_path)
