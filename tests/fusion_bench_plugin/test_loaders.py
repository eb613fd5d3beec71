"""Which entries of a pool are streamed, from where, and what is said of the others."""

from __future__ import annotations

import logging

import pytest
import torch
from fusion_bench.modelpool import CausalLMPool
from omegaconf import OmegaConf
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaModel,
    LlavaForConditionalGeneration,
    RagTokenForGeneration,
)

from fusion_slerp import CheckpointError, MismatchError, SettingsError, SlerpForCausalLM
from fusion_slerp.fusion_bench_plugin.loaders import loading_of, plain_loader
from fusion_slerp.fusion_bench_plugin.pool_models import pool_models, tokenizer_source
from fusion_slerp.methods.slerp import SLERP
from tests.models import save_transformers_model, tokenizer_json, write_json


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    return [str(save_transformers_model(folder / name, "llama", seed)) for seed, name in enumerate("ab")]


def make_pool(parents, target=None, common=None, tokenizer=None, **arguments):
    entry = {"_target_": target, **arguments}
    entries = {
        name: {**entry, "pretrained_model_name_or_path": parent} if target else parent
        for name, parent in zip("xy", parents, strict=True)
    }
    return CausalLMPool(entries, tokenizer=tokenizer, model_kwargs=OmegaConf.create(common or {}))


@pytest.fixture
def no_loading(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("load_model was called")

    monkeypatch.setattr(CausalLMPool, "load_model", refuse)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="fusion_slerp")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name.startswith("fusion_slerp")
    ]


@pytest.mark.parametrize(
    ("target", "loader"),
    [
        ("transformers.AutoModelForCausalLM", AutoModelForCausalLM),
        ("transformers.AutoModel.from_pretrained", AutoModel),
        ("transformers.LlamaForCausalLM", LlamaForCausalLM),
        ("transformers.LlamaForCausalLM.from_pretrained", LlamaForCausalLM),
        ("transformers.AutoModelForImageTextToText.from_pretrained", AutoModelForImageTextToText),
        ("transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel.from_pretrained", GPT2LMHeadModel),
        ("transformers.LlavaForConditionalGeneration.from_pretrained", LlavaForConditionalGeneration),
        ("transformers.models.auto.modeling_auto.AutoModelForCausalLM", AutoModelForCausalLM),
    ],
)
def test_language_models_of_transformers_only_load(target, loader):
    assert plain_loader(target) is loader


@pytest.mark.parametrize(
    "target",
    [
        "transformers.AutoTokenizer.from_pretrained",
        "transformers.AutoConfig.from_pretrained",
        "transformers.NoSuchModel.from_pretrained",
        "transformers.nowhere.LlamaForCausalLM",
        "transformers.set_seed",
        "transformers.LlamaForSequenceClassification.from_pretrained",
        "transformers.LlamaModel.from_pretrained",
        "transformers.CLIPVisionModel.from_pretrained",
        "transformers.AutoModelForSeq2SeqLM.from_pretrained",
        "fusion_bench.modelpool.causal_lm.causal_lm.load_peft_causal_lm",
        "tests.models.LlamaForCausalLM.from_pretrained",
        f"transformers.{RagTokenForGeneration.__name__}.from_pretrained_question_encoder_generator",
    ],
)
def test_everything_else_may_do_more(target):
    assert plain_loader(target) is None


@pytest.mark.parametrize(
    ("target", "model_class"),
    [
        ("transformers.LlamaForCausalLM.from_pretrained", LlamaForCausalLM),
        ("transformers.AutoModel.from_pretrained", LlamaModel),
    ],
)
@pytest.mark.parametrize("is_saved", [True, False])
def test_the_merged_model_is_streamed_and_loaded_by_the_entrys_class(
    parents, target, model_class, is_saved, tmp_path, no_loading
):
    path = str(tmp_path / "child") if is_saved else None
    child = SlerpForCausalLM(t=0.3, model_save_path=path).run(make_pool(parents, target))
    assert type(child) is model_class
    whole = SlerpForCausalLM(t=0.3).run(make_pool(parents))
    same = whole.model if model_class is LlamaModel else whole
    assert all(map(torch.equal, child.state_dict().values(), same.state_dict().values()))


def test_a_class_with_weights_that_the_files_lack_is_refused(tmp_path):
    folders = []
    for seed, name in enumerate("ab"):
        model = AutoModelForCausalLM.from_pretrained(save_transformers_model(tmp_path / name, "llama", seed))
        model.model.save_pretrained(tmp_path / name)  # without the head
        folders.append(str(tmp_path / name))
    wanted = (
        r"lacks weights that LlamaForCausalLM has\n  missing: lm_head.weight\n"
        rf"Fix: use 'modelpool.models.x={{_target_: transformers.AutoModel, .*path: {folders[0]}}}'$"
    )
    for path in (None, str(tmp_path / "child")):
        with pytest.raises(CheckpointError, match=wanted):
            SlerpForCausalLM(t=0.3, model_save_path=path).run(make_pool(folders))
    child = SlerpForCausalLM(t=0.3).run(make_pool(folders, "transformers.AutoModel"))
    assert type(child) is LlamaModel


def test_rows_follow_tokens_whatever_the_class_is_called(parents, tmp_path):
    reversed_tokens = tmp_path / "b"
    save_transformers_model(reversed_tokens, "llama", seed=0)
    content = tokenizer_json()
    names = list(content["model"]["vocab"])
    content["model"]["vocab"] = {name: i for i, name in enumerate([names[0], *reversed(names[1:])])}
    write_json(reversed_tokens / "tokenizer.json", content)
    folders = [parents[0], str(reversed_tokens)]
    children = [
        SlerpForCausalLM(t=0.5).run(
            make_pool(folders, f"transformers.{name}.from_pretrained", tokenizer=folders[0])
        )
        for name in ("AutoModelForCausalLM", "LlamaForCausalLM")
    ]
    rows = [child.get_input_embeddings().weight for child in children]
    assert torch.equal(*rows)


def test_strict_holds_whatever_the_class_is_called(parents, tmp_path):
    other = save_transformers_model(tmp_path / "b", "llama", seed=1)
    config = (other / "config.json").read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05')
    (other / "config.json").write_text(config)
    pool = make_pool([parents[0], str(other)], "transformers.LlamaForCausalLM.from_pretrained")
    with pytest.raises(MismatchError, match="rms_norm_eps"):
        SlerpForCausalLM(t=0.5, strict=True).run(pool)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"variant": "fp16"}, "variant"),
        ({"gguf_file": "x.gguf"}, "gguf_file"),
        ({"use_safetensors": False}, "use_safetensors"),
        ({"num_hidden_layers": 1}, "num_hidden_layers"),
        ({"config": "x", "key_mapping": {}}, "config, key_mapping"),
        ({"subfolder": "x"}, "subfolder"),
    ],
)
def test_arguments_that_change_what_is_loaded_leave_the_loading_to_the_pool(arguments, why):
    found = loading_of("x", "owner/name", arguments, "transformers.AutoModelForCausalLM")
    assert (found.source, found.why_loaded) == (None, why)


def test_what_is_loaded_and_why_is_said(parents, caplog):
    caplog.set_level(logging.INFO, logger="fusion_slerp")
    pool = make_pool(parents, "transformers.LlamaForCausalLM.from_pretrained", use_cache=False)
    SlerpForCausalLM(t=0.5).run(pool)
    for name in "xy":
        assert f"{name} is loaded, not streamed, because of use_cache" in caplog.messages


def test_arguments_of_the_pool_count_for_every_model(parents):
    pool = make_pool(parents, common={"variant": "fp16"})
    models = pool_models(pool, SLERP)
    assert [model.source for model in models.values()] == [None, None]
    assert [model.remark for model in models.values()] == [
        f"{name} is loaded, not streamed, because of variant" for name in "xy"
    ]


def test_arguments_set_to_nothing_are_none():
    found = loading_of(
        "x", "owner/name", {"variant": None, "quantization_config": None, "revision": None}, None
    )
    assert (found.source, found.kwargs) == ("owner/name", {})


@pytest.mark.parametrize("key", ["quantization_config", "load_in_8bit", "load_in_4bit"])
def test_weights_that_would_be_quantised_are_refused(parents, key):
    wanted = rf"quantised weights cannot be merged\n  model: x\n  found: {key}\n(.|\n)*Fix: remove {key}"
    for pool in (
        make_pool(parents, common={key: True}),
        make_pool(parents, "transformers.AutoModel", **{key: True}),
    ):
        with pytest.raises(SettingsError, match=wanted):
            SlerpForCausalLM(t=0.5).run(pool)


def test_revision_and_subfolder_say_where_to_stream_from(parents, tmp_path):
    def source(path, **arguments):
        return loading_of("x", path, arguments, "transformers.AutoModelForCausalLM").source

    assert source("owner/name", revision="v1") == "owner/name@v1"
    assert source("owner/name@v2", revision="v1") == "owner/name@v2"
    assert source(parents[0], revision="v1") == parents[0]
    save_transformers_model(tmp_path / "inner/a", "llama", 0)
    assert source(str(tmp_path), subfolder="inner/a") == str(tmp_path / "inner/a")
    pool = make_pool([str(tmp_path)] * 2, "transformers.AutoModelForCausalLM", subfolder="inner/a")
    child = SlerpForCausalLM(t=0.5).run(pool)
    same = AutoModelForCausalLM.from_pretrained(tmp_path, subfolder="inner/a")
    assert torch.equal(child.lm_head.weight, same.lm_head.weight)


@pytest.mark.parametrize(
    ("tokenizer", "source"),
    [
        (None, None),
        ("owner/name", "owner/name"),
        ({"pretrained_model_name_or_path": "owner/name"}, "owner/name"),
        ({"pretrained_model_name_or_path": "owner/name", "revision": "v1"}, "owner/name@v1"),
        ({"pretrained_model_name_or_path": "owner/name", "subfolder": "x"}, None),
        ({"_target_": "some.function"}, None),
    ],
)
def test_the_tokenizers_revision_counts(parents, tokenizer, source):
    if isinstance(tokenizer, dict):
        tokenizer = OmegaConf.create(tokenizer)
    assert tokenizer_source(make_pool(parents, tokenizer=tokenizer)) == source


def test_a_tokenizer_that_is_built_does_not_become_the_childs_in_silence(parents, warnings, tmp_path):
    class Pool(CausalLMPool):
        def load_tokenizer(self):
            return AutoTokenizer.from_pretrained(parents[0])

    pool = Pool(dict(zip("xy", parents, strict=True)), tokenizer=OmegaConf.create({"_target_": "a.b"}))
    SlerpForCausalLM(t=0.5, model_save_path=str(tmp_path / "child")).run(pool)
    (warning,) = warnings()
    assert warning.startswith("modelpool.tokenizer is not a folder or Hub id: evaluations use it")


def test_another_type_in_the_pool_than_in_the_files_is_said(parents, warnings):
    child = SlerpForCausalLM(t=0.5).run(make_pool(parents, common={"torch_dtype": "float16"}))
    assert child.dtype == torch.float16
    assert warnings() == [
        f"{name}: torch_dtype float16 applies when the merged model is loaded; its weights are merged in "
        "bfloat16, as they are stored (method.dtype=float16 changes the type of the merged model)"
        for name in "xy"
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_the_type_of_the_files_is_no_news(parents, warnings, dtype):
    SlerpForCausalLM(t=0.5).run(make_pool(parents, "transformers.AutoModelForCausalLM", dtype=dtype))
    assert warnings() == []


def test_arguments_for_the_hub_that_streaming_does_not_heed_are_named(parents):
    entry = {"_target_": "transformers.AutoModel", "pretrained_model_name_or_path": "owner/name"}
    pool = CausalLMPool(
        {"x": {**entry, "cache_dir": "here", "token": "secret", "revision": "v1"}, "y": parents[0]},
        tokenizer=None,
    )
    x, y = pool_models(pool, SLERP).values()
    assert x.source == "owner/name@v1"
    assert x.remark == (
        "x: a merge that streams does not heed cache_dir, token; "
        "set in the environment: HF_HUB_CACHE HF_TOKEN"
    )
    assert y.remark == ""
