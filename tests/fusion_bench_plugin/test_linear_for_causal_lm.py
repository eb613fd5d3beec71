"""The weighted average as FusionBench drives it: pools of any number of models, on disk and in memory."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from fusion_bench.modelpool import BaseModelPool, CausalLMPool
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from fusion_slerp import LinearForCausalLM, MismatchError, SettingsError, merge, verify
from tests.models import save_transformers_model

LABELS = "abc"
WEIGHT = {"a": 0.5, "b": [0.25, 1], "c": -0.25}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(save_transformers_model(folder / name, "llama", seed)) for seed, name in enumerate(LABELS)]


def make_pool(models):
    entries = {f"model_{i}": model for i, model in enumerate(models, start=1)}
    return CausalLMPool(entries, tokenizer=None, enable_lazy_loading=True)


def assert_same(state_dict, wanted):
    assert state_dict.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(state_dict[name], tensor), name


@pytest.mark.parametrize("n", [1, 2, 3])
def test_any_number_of_checkpoints_is_streamed(models, n, tmp_path):
    weight = {label: WEIGHT[label] for label in LABELS[:n]}
    out = tmp_path / "child"
    method = LinearForCausalLM(weight=OmegaConf.create(weight), normalize=False, model_save_path=str(out))
    child = method.run(make_pool(models[:n]))
    merge(*models[:n], out=tmp_path / "same", method="linear", weight=weight, normalize=False)
    assert_same(child.state_dict(), load_file(tmp_path / "same/model.safetensors"))
    in_memory = LinearForCausalLM(weight=weight, normalize=False).run(make_pool(models[:n]))
    assert_same(in_memory.state_dict(), child.state_dict())
    assert verify(out, recompute="all", models=dict(zip(LABELS, models[:n], strict=False))).ok


def test_models_that_the_pool_holds_are_merged_by_the_same_arithmetic(models, tmp_path):
    streamed = LinearForCausalLM(weight=WEIGHT).run(make_pool(models))
    loaded = make_pool(models)
    loaded.enable_lazy_loading = False
    modules = {name: loaded.load_model(name) for name in loaded.model_names}
    before = {name: module.state_dict()["model.norm.weight"].clone() for name, module in modules.items()}
    out = tmp_path / "child"
    child = LinearForCausalLM(weight=WEIGHT, model_save_path=str(out)).run(BaseModelPool(modules))
    assert_same(child.state_dict(), streamed.state_dict())
    assert verify(out).ok
    for name, module in modules.items():
        assert torch.equal(module.state_dict()["model.norm.weight"], before[name])


def linears(n):
    torch.manual_seed(0)
    return BaseModelPool({f"x{i}": nn.Linear(3, 2) for i in range(n)})


def test_the_mean_is_rounded_once():
    pool = linears(3)
    child = LinearForCausalLM().run(pool)
    for i, found in enumerate(child.bias.tolist()):
        exact = sum(Fraction(pool._models[name].bias[i].item()) for name in pool.model_names) / 3
        assert found == pytest.approx(float(exact), rel=2**-24, abs=0)
        assert abs(np.float32(found) - np.float32(float(exact))) <= np.spacing(np.float32(abs(found)))


def test_entries_by_name_decide_and_what_none_matches_is_the_first_models():
    pool = linears(2)
    child = LinearForCausalLM(
        weight={"a": {"filter": "bias", "value": 0}, "b": {"filter": "bias", "value": 2}}
    )
    child = child.run(pool)
    assert torch.equal(child.bias, pool._models["x1"].bias)
    assert torch.equal(child.weight, pool._models["x0"].weight)
    with pytest.raises(SettingsError, match="no entry of weight matches for b"):
        LinearForCausalLM(weight={"b": {"filter": "bias", "value": 2}}).run(pool)


def test_counters_must_be_equal_unless_one_model_alone_counts():
    models = {name: nn.BatchNorm1d(2) for name in ("x", "y", "z")}
    models["z"].num_batches_tracked += 1
    with pytest.raises(MismatchError, match=r"num_batches_tracked(.|\n)*Fix:"):
        LinearForCausalLM().run(BaseModelPool(models))
    child = LinearForCausalLM(weight={"a": 0, "b": 0}).run(BaseModelPool(models))
    assert child.num_batches_tracked == 1


@pytest.mark.parametrize(
    "other", [nn.Linear(3, 3), nn.Linear(3, 2, bias=False), nn.Linear(3, 2, dtype=torch.complex64)]
)
def test_models_that_differ_are_refused(other):
    pool = BaseModelPool({**linears(2)._models, "other": other})
    with pytest.raises(MismatchError, match=r"differ(.|\n)*Fix:"):
        LinearForCausalLM().run(pool)


def test_models_of_other_classes_are_refused():
    pool = BaseModelPool({**linears(2)._models, "other": nn.Conv1d(3, 2, 1)})
    with pytest.raises(MismatchError, match=r"x0: Linear\n  x1: Linear\n  other: Conv1d"):
        LinearForCausalLM().run(pool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 0.5}, "LinearForCausalLM has no setting 't'"),
        ({"wieght": 1}, r"did you mean 'weight'"),
        ({"weight": "heavy"}, "invalid weight"),
        ({"normalize": 1}, "invalid normalize"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_loaded(arguments, message):
    with pytest.raises(SettingsError, match=message):
        LinearForCausalLM(**arguments)


def test_weights_that_sum_to_zero_are_refused():
    with pytest.raises(SettingsError, match="weights that sum to zero: a 1, b -1"):
        LinearForCausalLM(weight={"a": 1, "b": -1}).run(linears(2))


def test_an_empty_pool_is_refused():
    with pytest.raises(SettingsError, match="linear merges at least 1 models, not 0"):
        LinearForCausalLM().run(BaseModelPool({}))


def test_configuration_round_trip(tmp_path):
    method = LinearForCausalLM(weight=WEIGHT, normalize=False, threads=2)
    assert method.config._target_ == "fusion_slerp.LinearForCausalLM"
    method.to_yaml(tmp_path / "method.yaml")
    again = LinearForCausalLM.from_yaml(tmp_path / "method.yaml")
    assert type(again) is LinearForCausalLM
    assert again.settings == method.settings
