"""One model in memory that becomes one merge after the other."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from fusion_slerp import CheckpointError, merge
from fusion_slerp.engine import chunk_work
from fusion_slerp.evaluation.building import tokenizer_of
from fusion_slerp.evaluation.resident import ResidentModel
from tests.models import names_in, save_transformers_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [save_transformers_model(folder / name, "llama", seed) for seed, name in enumerate("ab")]


def saved_weights(folder, models, **options):
    merge(*models, out=folder, **options)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def assert_equal(model, expected):
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_each_point_is_the_saved_merge_in_the_same_memory(tmp_path, models):
    resident = ResidentModel(models, None, {})
    first = resident.at({"t": 0.3})
    places = {name: each.data_ptr() for name, each in first.named_parameters()}
    assert_equal(first, saved_weights(tmp_path / "0.3", models, t=0.3))
    for t in (0.0, 0.7, 1.0):
        model = resident.at({"t": t})
        assert model is first
        assert {name: each.data_ptr() for name, each in model.named_parameters()} == places
        assert_equal(model, saved_weights(tmp_path / str(t), models, t=t))
    assert names_in(tmp_path) == ["0.0", "0.3", "0.7", "1.0"]


def test_a_model_that_was_moved_is_built_again(tmp_path, models):
    resident = ResidentModel(models, None, {})
    first = resident.at({"t": 0.3}).double()
    second = resident.at({"t": 0.7})
    assert second is not first
    assert_equal(second, saved_weights(tmp_path / "child", models, t=0.7))


def test_options_that_change_the_shape_build_another_model(tmp_path, models):
    resident = ResidentModel(models, None, {})
    resident.at({"t": 0.3})
    slices = [{"a": [0, 2], "b": [0, 2]}, {"a": [1, 2], "b": [1, 2]}]
    model = resident.at({"t": 0.3, "slices": slices})
    assert model.config.num_hidden_layers == 3
    assert_equal(model, saved_weights(tmp_path / "child", models, t=0.3, slices=slices))


def test_fused_experts_are_loaded_again_for_each_point(tmp_path):
    models = [save_transformers_model(tmp_path / name, "mixtral", seed) for seed, name in enumerate("ab")]
    resident = ResidentModel(models, None, {})
    for t in (0.3, 0.7):
        assert_equal(resident.at({"t": t}), saved_weights(tmp_path / str(t), models, t=t))


def test_it_has_a_tokenizer_and_names_no_source(models):
    model = ResidentModel(models, None, {}).at({"t": 0.5})
    assert len(tokenizer_of(model)) > 0
    assert model.config._name_or_path == ""


def test_large_tensors_are_measured_once(tmp_path, models, monkeypatch):
    measured = []
    monkeypatch.setattr("fusion_slerp.planning.plan.CHUNK_ELEMENTS", 64)
    real = chunk_work.measure
    monkeypatch.setattr(chunk_work, "measure", lambda *given: (measured.append(given), real(*given))[1])
    resident = ResidentModel(models, None, {})
    resident.at({"t": 0.3})
    once = len(measured)
    assert once > 0
    assert_equal(resident.at({"t": 0.6}), saved_weights(tmp_path / "child", models, t=0.6))
    assert len(measured) == 2 * once  # the second time by the merge to the folder
    resident.at({"t": 0.6, "vocab_fill": "zeros"})  # another merge, whose rows might differ
    assert len(measured) == 3 * once


def test_weights_that_the_class_lacks_are_an_error(tmp_path):
    models = [save_transformers_model(tmp_path / name, "llama", seed) for seed, name in enumerate("ab")]
    from safetensors.torch import load_file, save_file

    for model in models:
        file = model / "model.safetensors"
        tensors = load_file(file)
        del tensors["model.norm.weight"]
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks weights that LlamaForCausalLM has"):
        ResidentModel(models, None, {}).at({"t": 0.5})
