"""What is checked of models in memory: adapters, settings, configs, tokens."""

from __future__ import annotations

import logging

import peft
import pytest
import torch
from fusion_bench.modelpool import BaseModelPool, CausalLMPool
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from fusion_slerp import MismatchError, SettingsError, SlerpForCausalLM, slerp
from tests.models import TOKENS, save_transformers_model, tokenizer_json, write_json

# PEFT asks transformers by a name that it has given up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LORA = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    return [
        str(save_transformers_model(folder / name, "llama", seed, dtype="float32"))
        for seed, name in enumerate("ab")
    ]


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="fusion_slerp")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name.startswith("fusion_slerp")
    ]


def loaded(folders):
    return {
        name: AutoModelForCausalLM.from_pretrained(folder) for name, folder in zip("xy", folders, strict=True)
    }


def merged(models, pool=BaseModelPool, **settings):
    return SlerpForCausalLM(t=0.5, **settings).run(pool(models))


def with_tokens(folder, tokens):
    write_json(folder / "tokenizer.json", tokenizer_json(tokens))
    return str(folder)


# --- adapters ---------------------------------------------------------------------------------------------


@pytest.fixture
def adapters(parents, tmp_path):
    """A folder with an adapter for each of the models."""
    folders = []
    for seed, parent in enumerate(parents):
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(parent), peft.LoraConfig(**LORA))
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora" in name:
                    parameter.normal_()
        model.save_pretrained(tmp_path / str(seed))
        folders.append(str(tmp_path / str(seed)))
    return folders


def peft_pool(parents, adapters, **arguments):
    entries = {
        name: {
            "_target_": "fusion_bench.modelpool.causal_lm.causal_lm.load_peft_causal_lm",
            "base_model_path": parent,
            "peft_model_path": adapter,
            "torch_dtype": "float32",
            **arguments,
        }
        for name, parent, adapter in zip("xy", parents, adapters, strict=True)
    }
    return CausalLMPool(entries, tokenizer=parents[0])


def test_an_entry_whose_adapters_stay_apart_is_refused_before_it_is_loaded(parents, adapters, monkeypatch):
    monkeypatch.setattr(CausalLMPool, "load_model", lambda *_: pytest.fail("it was loaded"))
    fix = r"Fix: use \+\+modelpool.models.x.merge_and_unload=true"
    with pytest.raises(SettingsError, match=rf"adapters must be merged(.|\n)*{fix}"):
        SlerpForCausalLM(t=0.5).run(peft_pool(parents, adapters))


def test_adapters_that_the_entry_merges_are_in_the_whole_model_that_is_written(parents, adapters, tmp_path):
    pool = peft_pool(parents, adapters, merge_and_unload=True)
    child = SlerpForCausalLM(t=0.5, model_save_path=str(tmp_path / "child")).run(pool)
    parts = [
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(parent), adapter)
        for parent, adapter in zip(parents, adapters, strict=True)
    ]
    a, b = (part.merge_and_unload().state_dict() for part in parts)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(child.state_dict()[name], slerp(0.5, a[name], b[name]))
    saved = load_file(tmp_path / "child/model.safetensors")
    assert saved.keys() == child.state_dict().keys()
    assert torch.equal(saved[name], child.state_dict()[name])
    assert not list((tmp_path / "child").glob("adapter*"))


def as_peft_model(model):
    return peft.get_peft_model(model, peft.LoraConfig(**LORA))


def with_injected_adapter(model):
    return peft.inject_adapter_in_model(peft.LoraConfig(**LORA), model)


def with_trainable_head(model):
    config = peft.LoraConfig(**LORA, modules_to_save=["lm_head"])
    return as_peft_model_of(config, model).base_model.model


def as_peft_model_of(config, model):
    return peft.get_peft_model(model, config)


def with_factors_of_another_library(model):
    model.model.layers[0].self_attn.q_proj.lora_A = nn.Parameter(torch.zeros(2, 16))
    return model


def with_prompt(model):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return as_peft_model_of(config, model)


@pytest.mark.parametrize(
    "adapted",
    [as_peft_model, with_injected_adapter, with_trainable_head, with_factors_of_another_library, with_prompt],
)
def test_models_that_carry_adapters_are_refused(parents, adapted):
    models = loaded(parents)
    models["y"] = adapted(models["y"])
    with pytest.raises(
        SettingsError, match=r"adapters must be merged(.|\n)*model: y\n(.|\n)*merge_and_unload"
    ):
        merged(models)


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"granularity": "row"},
        {"slices": [{"a": [0, 1], "b": [0, 1]}]},
        {"tokens": {"x": "a"}},
        {"chat_template": "{{ x }}"},
        {"vocab_fill": "zeros"},
        {"pad_vocab_to_multiple_of": 8},
        {"missing": "copy"},
        {"memory_budget": "1GB"},
        {"direct_io": "on"},
    ],
)
def test_settings_without_an_effect_are_refused(setting):
    ((name, _),) = setting.items()
    with pytest.raises(SettingsError, match=rf"^{name} needs checkpoints(.|\n)*Fix: .*{name}="):
        merged({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)}, **setting)


def test_all_settings_without_an_effect_are_named_at_once():
    with pytest.raises(SettingsError, match=r"2 problems(.|\n)*vocab_fill(.|\n)*missing"):
        merged({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)}, vocab_fill="mean", missing="copy")


def test_direct_io_off_asks_for_nothing():
    merged({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)}, direct_io="off")


def test_threads_change_no_value_and_the_bar_is_shown(capsys):
    models = {name: nn.Sequential(*(nn.Linear(9, 9) for _ in range(20))) for name in "xy"}
    one = merged(models, threads=1, show_pbar=True)
    assert "merging: 100%" in capsys.readouterr().err
    several = merged(models, threads=4)
    assert capsys.readouterr().err == ""
    assert all(map(torch.equal, one.state_dict().values(), several.state_dict().values()))


# --- configs ----------------------------------------------------------------------------------------------


def test_differences_of_configs_are_warned_of(parents, warnings):
    models = loaded(parents)
    models["y"].config.rms_norm_eps = 1e-3
    merged(models)
    assert warnings() == ["the configs differ in rms_norm_eps: 1e-06 (a), 0.001 (b)"]
    with pytest.raises(MismatchError, match=r"rms_norm_eps(.|\n)*Fix: use strict=False"):
        merged(models, strict=True)


def test_configs_that_give_equal_shapes_another_meaning_are_refused(parents):
    models = loaded(parents)
    models["y"].config.num_attention_heads = 4
    with pytest.raises(MismatchError, match=r"num_attention_heads(.|\n)*a: 2 in model x"):
        merged(models)


def test_strict_needs_configs():
    with pytest.raises(SettingsError, match=r"strict compares configs(.|\n)*x, y\nFix: use strict=False"):
        merged({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)}, strict=True)


# --- tokens -----------------------------------------------------------------------------------------------


def test_models_with_the_same_tokens_are_merged_without_a_word(parents, warnings):
    merged(loaded(parents), strict=True)
    assert warnings() == []


@pytest.mark.parametrize("tokens", [(TOKENS[0], *TOKENS[:0:-1]), (*TOKENS[:-1], "new")])
def test_other_tokens_in_the_same_rows_are_refused(parents, tokens, tmp_path):
    save_transformers_model(tmp_path / "y", "llama", 1, dtype="float32")
    models = loaded([parents[0], with_tokens(tmp_path / "y", tokens)])
    wanted = (
        r"different tokens cannot be merged\n  tokens: 'to' 1 and|'##s' 5 and none(.|\n)*Fix: put the folders"
    )
    with pytest.raises(MismatchError, match=wanted):
        merged(models)


def test_the_pools_tokenizer_must_have_the_models_tokens(parents, tmp_path):
    def pool(tokens):
        (tmp_path / "t").mkdir(exist_ok=True)
        entry = {"_target_": f"{__name__}.load", "folder": ""}
        entries = {name: {**entry, "folder": parent} for name, parent in zip("xy", parents, strict=True)}
        return CausalLMPool(entries, tokenizer=with_tokens(tmp_path / "t", tokens))

    SlerpForCausalLM(t=0.5).run(pool((*TOKENS, "more")))
    with pytest.raises(MismatchError, match=r"in x and modelpool.tokenizer\); 4 differ"):
        SlerpForCausalLM(t=0.5).run(pool((TOKENS[0], *TOKENS[:0:-1])))


def load(folder):
    """What a pool's `_target_` may be."""
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("origin", ["", "./nowhere"])
def test_tokens_that_are_not_known_are_said(parents, warnings, origin):
    models = loaded(parents)
    models["y"].config._name_or_path = origin
    merged(models)
    assert warnings() == [
        "the vocabularies could not be compared; no readable tokenizer for y; "
        "rows are assumed to have the same tokens in all models"
    ]


def test_models_without_tokens_have_nothing_to_compare(warnings):
    merged({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)})
    assert warnings() == []
