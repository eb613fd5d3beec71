"""The method as FusionBench drives it, in process: pools, programs, what is loaded and what is not."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from fusion_bench.modelpool import BaseModelPool, CausalLMPool
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fusion_slerp import (
    CheckpointError,
    MismatchError,
    OutputError,
    SettingsError,
    SlerpForCausalLM,
    slerp,
    verify,
)
from fusion_slerp.fusion_bench_plugin.pool_models import pool_models
from fusion_slerp.methods.slerp import SLERP
from fusion_slerp.output.staging import Staging


def save_llama(folder, seed, **config):
    torch.manual_seed(seed)
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, **(settings | config)))
    with torch.no_grad():  # norms of an untrained model are equal; give them an angle too
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    return save_llama(folder / "a", 1), save_llama(folder / "b", 2)


def make_pool(parents, lazy=True, **kwargs):
    return CausalLMPool(
        {"model_1": parents[0], "model_2": parents[1]}, tokenizer=None, enable_lazy_loading=lazy, **kwargs
    )


def expected(parents, t):
    a, b = (load_file(f"{parent}/model.safetensors") for parent in parents)
    return {name: slerp(t, a[name], b[name]) for name in a}


def assert_same(state_dict, wanted):
    assert state_dict.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(state_dict[name], tensor), name


def forbid_loading(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("load_model was called")

    monkeypatch.setattr(CausalLMPool, "load_model", refuse)


@pytest.mark.parametrize("lazy", [True, False])
def test_without_a_path_the_child_is_merged_into_memory_from_the_files(parents, lazy, monkeypatch):
    forbid_loading(monkeypatch)
    child = SlerpForCausalLM(t=0.3).run(make_pool(parents, lazy))
    assert isinstance(child, LlamaForCausalLM)
    assert child.dtype == torch.bfloat16
    assert_same(child.state_dict(), expected(parents, 0.3))


def test_with_a_path_the_child_is_on_disk_and_loaded_back(parents, tmp_path, monkeypatch):
    forbid_loading(monkeypatch)
    out = tmp_path / "child"
    child = SlerpForCausalLM(t=0.3, model_save_path=str(out)).run(make_pool(parents))
    assert_same(load_file(out / "model.safetensors"), expected(parents, 0.3))
    assert_same(child.state_dict(), expected(parents, 0.3))


@pytest.mark.parametrize(
    ("taskpool", "save_path", "is_loaded"),
    [(None, None, False), ({"_target_": "x"}, None, True), (None, "elsewhere", True)],
)
def test_inside_a_program_it_is_loaded_back_only_if_used(parents, tmp_path, taskpool, save_path, is_loaded):
    method = SlerpForCausalLM(t=0.3, model_save_path=str(tmp_path / "child"))
    method._program = SimpleNamespace(_taskpool=taskpool, merged_model_save_path=save_path)
    child = method.run(make_pool(parents))
    assert (child is not None) == is_loaded
    assert (tmp_path / "child" / "model.safetensors").is_file()


def test_the_first_model_of_the_pool_is_t_0(parents):
    child = SlerpForCausalLM(t=0).run(make_pool(parents))
    assert_same(child.state_dict(), load_file(f"{parents[0]}/model.safetensors"))
    swapped = SlerpForCausalLM(t=0).run(make_pool(parents[::-1]))
    assert_same(swapped.state_dict(), load_file(f"{parents[1]}/model.safetensors"))


def test_a_pool_of_modules_is_merged_and_left_as_it_was(parents):
    a, b = (AutoModelForCausalLM.from_pretrained(parent) for parent in parents)
    before = copy.deepcopy(a.state_dict())
    child = SlerpForCausalLM(t=0.7).run(BaseModelPool({"x": a, "y": b}))
    assert child is not a
    assert_same(child.state_dict(), expected(parents, 0.7))
    assert_same(a.state_dict(), before)


def test_plain_modules_of_one_class_are_merged(tmp_path):
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    child = SlerpForCausalLM(t=0.5).run(BaseModelPool({"x": a, "y": b}))
    assert torch.equal(child[0].weight, slerp(0.5, a[0].weight, b[0].weight))
    assert child[1].num_batches_tracked.dtype == torch.int64


def test_counters_that_differ_are_refused_by_name():
    a, b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    b.num_batches_tracked += 1
    with pytest.raises(MismatchError, match=r"num_batches_tracked(.|\n)*Fix:"):
        SlerpForCausalLM(t=0.5).run(BaseModelPool({"x": a, "y": b}))


@pytest.mark.parametrize(
    "setting", [{"granularity": "row"}, {"slices": [{"a": [0, 1], "b": [0, 1]}]}, {"tokens": {"x": "a"}}]
)
def test_what_only_checkpoints_can_do_is_refused_for_loaded_models(setting):
    pool = BaseModelPool({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)})
    with pytest.raises(SettingsError, match=f"{next(iter(setting))} needs checkpoints"):
        SlerpForCausalLM(t=0.5, **setting).run(pool)


def test_loaded_models_heed_a_schedule():
    pool = BaseModelPool({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)})
    child = SlerpForCausalLM(t=[{"filter": "bias", "value": 1}, {"value": 0}]).run(pool)
    assert torch.equal(child.bias, pool._models["y"].bias)
    assert torch.equal(child.weight, pool._models["x"].weight)


def test_modules_of_two_classes_are_refused():
    pool = BaseModelPool({"x": nn.Linear(2, 2), "y": nn.Conv1d(2, 2, 1)})
    with pytest.raises(MismatchError, match=r"x: Linear\n  y: Conv1d"):
        SlerpForCausalLM(t=0.5).run(pool)


def build_llama(seed):
    """What a pool's `_target_` may be: any function that returns a model."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
        )
    ).to(torch.bfloat16)


@pytest.mark.parametrize("lazy", [True, False])
def test_an_entry_that_builds_a_model_is_loaded(parents, lazy, tmp_path):
    builder = {"_target_": f"{__name__}.build_llama", "seed": 5}
    pool = CausalLMPool({"x": builder, "y": parents[1]}, tokenizer=None, enable_lazy_loading=lazy)
    child = SlerpForCausalLM(t=0.4, model_save_path=str(tmp_path / "child")).run(pool)
    b = load_file(f"{parents[1]}/model.safetensors")
    wanted = {name: slerp(0.4, tensor, b[name]) for name, tensor in build_llama(5).state_dict().items()}
    assert_same(child.state_dict(), wanted)
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path / "child").state_dict(), wanted)
    assert "base_model" not in (tmp_path / "child" / "README.md").read_text()
    assert verify(tmp_path / "child").ok
    with pytest.raises(CheckpointError, match="the source models were not checkpoints"):
        verify(tmp_path / "child", inputs=True)


def test_an_interrupted_merge_goes_on_when_the_method_runs_again(parents, tmp_path, monkeypatch):
    real, calls = Staging.add, itertools.count()

    def add(self, file):
        if next(calls) == 2:
            raise OSError(5, "Input/output error")
        real(self, file)

    monkeypatch.setattr(Staging, "add", add)
    method = SlerpForCausalLM(t=0.3, model_save_path=str(tmp_path / "child"), max_shard_size=3000)
    with pytest.raises(OutputError, match=r"kept: \d+ of 17 weight files"):
        method.run(make_pool(parents))
    monkeypatch.undo()
    assert_same(method.run(make_pool(parents)).state_dict(), expected(parents, 0.3))
    assert verify(tmp_path / "child", recompute="all", models=dict(zip("ab", parents, strict=True))).ok


@pytest.mark.parametrize("call", ["", ".from_pretrained"])
def test_entries_that_only_load_are_streamed(parents, call, monkeypatch):
    forbid_loading(monkeypatch)
    entries = {
        name: {
            "_target_": f"transformers.AutoModelForCausalLM{call}",
            "pretrained_model_name_or_path": parent,
            "torch_dtype": "bfloat16",
        }
        for name, parent in zip("xy", parents, strict=True)
    }
    child = SlerpForCausalLM(t=0.3).run(CausalLMPool(entries, tokenizer=None))
    assert_same(child.state_dict(), expected(parents, 0.3))


def test_a_revision_of_the_pool_pins_the_source():
    entries = {"x": "owner/a", "y": {"_target_": "transformers.AutoModelForCausalLM"}}
    entries["y"] |= {"pretrained_model_name_or_path": "owner/b", "revision": "v2"}
    kwargs = DictConfig({"revision": "v1"})
    pool = CausalLMPool(OmegaConf.create(entries), tokenizer=None, model_kwargs=kwargs)
    assert [model.source for model in pool_models(pool, SLERP).values()] == ["owner/a@v1", "owner/b@v2"]


def test_the_pools_tokenizer_is_the_childs(parents, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text('{"odd":   "bytes"}')
    pool = CausalLMPool({"x": parents[0], "y": parents[1]}, tokenizer=str(tokenizer))
    SlerpForCausalLM(t=0.5, model_save_path=str(tmp_path / "child")).run(pool)
    assert (tmp_path / "child" / "tokenizer.json").read_text() == '{"odd":   "bytes"}'


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"]])
def test_other_than_two_models_names_those_found(parents, names):
    pool = CausalLMPool(dict.fromkeys(names, parents[0]), tokenizer=None)
    wanted = rf"2 models, not {len(names)}\n.*{', '.join(names)}(.|\n)*Fix:"
    method = SlerpForCausalLM(t=0.5)
    with pytest.raises(SettingsError, match=wanted):
        method.run(pool)


def test_unknown_arguments_are_errors_with_the_nearest_name():
    with pytest.raises(SettingsError, match=r"'treads'.*did you mean 'threads'"):
        SlerpForCausalLM(t=0.5, treads=2)


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan"), "0.5", True, None])
def test_a_bad_t_is_refused_before_anything_is_loaded(t):
    with pytest.raises(SettingsError, match=r"invalid t(.|\n)*Fix: use t="):
        SlerpForCausalLM(t=t)


def test_configuration_round_trip(tmp_path):
    method = SlerpForCausalLM(t=0.3, DOT_THRESHOLD=0.9, threads=2, dtype="float32", max_shard_size="1GB")
    assert method.config._target_ == "fusion_slerp.SlerpForCausalLM"
    method.to_yaml(tmp_path / "method.yaml")
    again = SlerpForCausalLM.from_yaml(tmp_path / "method.yaml")
    assert type(again) is SlerpForCausalLM
    assert again.settings == method.settings
    assert again.config == method.config


def test_settings_changed_on_the_object_are_heeded(parents):
    method = SlerpForCausalLM(t=0.3)
    method.t = 1
    child = method.run(make_pool(parents))
    assert_same(child.state_dict(), load_file(f"{parents[1]}/model.safetensors"))


def test_the_engines_settings_reach_the_engine(parents, tmp_path):
    out = tmp_path / "child"
    method = SlerpForCausalLM(t=0.3, model_save_path=str(out), dtype="float32", max_shard_size="20KB")
    method.run(make_pool(parents))
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 1
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32
    with pytest.raises(Exception, match="overwrite"):
        method.run(make_pool(parents))
    method.overwrite = True
    method.run(make_pool(parents))


def test_a_parent_is_not_replaced_by_the_child_of_loaded_models(parents):
    before = load_file(f"{parents[1]}/model.safetensors")
    builder = {"_target_": f"{__name__}.build_llama", "seed": 5}
    pool = CausalLMPool({"x": builder, "y": parents[1]}, tokenizer=None)
    method = SlerpForCausalLM(t=0.4, model_save_path=parents[1], overwrite=True)
    with pytest.raises(OutputError, match=r"the output is model y(.|\n)*Fix:"):
        method.run(pool)
    assert_same(load_file(f"{parents[1]}/model.safetensors"), before)


def test_the_tokenizers_folder_is_not_replaced_by_the_child_of_loaded_models(parents):
    builder = {"_target_": f"{__name__}.build_llama", "seed": 5}
    pool = CausalLMPool({"x": builder, "y": builder}, tokenizer=parents[0])
    method = SlerpForCausalLM(t=0.4, model_save_path=parents[0], overwrite=True)
    with pytest.raises(OutputError, match=r"the output is the tokenizer(.|\n)*Fix:"):
        method.run(pool)
    assert load_file(f"{parents[0]}/model.safetensors")
