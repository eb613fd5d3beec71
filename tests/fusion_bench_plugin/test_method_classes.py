"""The classes of all methods: as if written by hand, and each merges a pool with the result of `merge`."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
import pydoc
import shutil
from typing import Any

import pytest
import torch
from fusion_bench.modelpool import BaseModelPool, CausalLMPool
from safetensors.torch import load_file
from torch import nn

import fusion_slerp
from fusion_slerp import MismatchError, SettingsError, SlerpForCausalLM, merge, verify
from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import MergeForCausalLM
from fusion_slerp.fusion_bench_plugin.method_classes import CLASSES
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declaration, declared
from tests.models import save_transformers_model

NAMES = ("plays", "code", "mixed")

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def class_of(method: Method) -> Any:
    return getattr(fusion_slerp, method.class_name)


WITH_BASE = next(
    class_of(method) for method in METHODS.values() if method.base == "needed" and method.takes(2)
)


# As if written by hand.


@each_method
def test_it_looks_as_if_written_by_hand(method: Method):
    cls = class_of(method)
    assert cls is CLASSES[method.class_name]
    assert issubclass(cls, MergeForCausalLM)
    assert (
        (cls.__module__, cls.__name__)
        == ("fusion_slerp", method.class_name)
        == ("fusion_slerp", cls.__qualname__)
    )
    assert cls.__init__.__qualname__ == f"{method.class_name}.__init__"
    assert inspect.signature(cls.__init__).parameters.keys() - inspect.signature(cls).parameters.keys() == {
        "self"
    }
    assert set(cls.__init__.__annotations__) == {*inspect.signature(cls).parameters, "return"}
    described = inspect.getdoc(cls).partition("Args:\n")[2]
    assert [line.split(":")[0].strip() for line in described.splitlines() if line[4] != " "] == list(
        declared(method.options)
    )
    shown = pydoc.plain(pydoc.render_doc(cls))
    assert f"class {method.class_name}(" in shown
    assert all(len(line) <= 110 for line in cls.__doc__.splitlines())


@each_method
def test_an_object_can_be_pickled_copied_and_written(method: Method, tmp_path):
    one = class_of(method)(**required(method), threads=2)
    one.to_yaml(tmp_path / "method.yaml")
    again = class_of(method).from_yaml(tmp_path / "method.yaml")
    for other in (again, pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert type(other) is class_of(method)
        assert other.config == one.config
        assert other.settings == one.settings
    assert one.config._target_ == f"fusion_slerp.{method.class_name}"


def required(method: Method) -> dict[str, Any]:
    parameters = inspect.signature(class_of(method)).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return {name: declared(method.options)[name].default for name in needed}


def test_slerp_is_called_as_fusion_benchs_own_is():
    from fusion_bench.method import SlerpForCausalLM as Theirs

    def by_position(cls: Any) -> list[tuple[str, object]]:
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert by_position(SlerpForCausalLM) == by_position(Theirs)
    method = SlerpForCausalLM(0.25, 0.9, 1e-6, "child", True)
    assert (method.t, method.DOT_THRESHOLD, method.epsilon) == (0.25, 0.9, 1e-6)
    assert (method.model_save_path, method.show_pbar) == ("child", True)


@pytest.mark.parametrize(
    ("positional", "named", "message"),
    [
        ((), {}, "missing a required argument: 't'"),
        ((0.5,), {"t": 0.5}, "multiple values for argument 't'"),
        ((0.5, 0.9, 1e-8, None, False, "row"), {}, "too many positional arguments"),
    ],
)
def test_wrong_calls_are_type_errors(positional, named, message):
    with pytest.raises(TypeError, match=message):
        SlerpForCausalLM(*positional, **named)


# What they merge.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    names = ("base", *NAMES)
    return {
        name: str(save_transformers_model(folder / name, "llama", seed)) for seed, name in enumerate(names)
    }


def n_of(method: Method) -> int:
    least, most = method.n_models
    return min(most or len(NAMES), max(least, len(NAMES)))


def make_pool(models, n, has_base=True, **kwargs):
    entries = {"_pretrained_": models["base"]} if has_base else {}
    entries |= {name: models[name] for name in NAMES[:n]}
    return CausalLMPool(entries, tokenizer=None, enable_lazy_loading=True, **kwargs)


def options_of(method: Method) -> dict[str, Any]:
    """Weights and densities by the models' names in the pool: all options that are usually 1."""
    values = dict(required(method))
    for name, each in declared(method.options).items():
        if declaration(each).is_per_model and each.default == 1.0:
            values[name] = dict(zip(NAMES[: n_of(method)], (0.5, 0.75, 0.25), strict=False))
    return values


def by_label(values: dict[str, Any]) -> dict[str, Any]:
    labels = dict(zip(NAMES, "abc", strict=True))
    return {
        name: {labels[key]: each for key, each in value.items()} if isinstance(value, dict) else value
        for name, value in values.items()
    }


def assert_same(state_dict, wanted):
    assert state_dict.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(state_dict[name], tensor), name


@each_method
def test_a_pool_is_merged_as_the_front_door_does(method: Method, models, tmp_path):
    n, options = n_of(method), options_of(method)
    base = models["base"] if method.uses_base(method.options()) else None
    merge(
        *(models[name] for name in NAMES[:n]),
        out=tmp_path / "same",
        base=base,
        method=method.name,
        **by_label(options),
    )
    wanted = load_file(tmp_path / "same/model.safetensors")
    out = tmp_path / "child"
    child = class_of(method)(**options, model_save_path=str(out)).run(make_pool(models, n))
    assert_same(child.state_dict(), wanted)
    assert verify(out).ok
    assert_same(class_of(method)(**options).run(make_pool(models, n)).state_dict(), wanted)


@each_method
def test_models_in_memory_are_merged_by_the_same_arithmetic(method: Method, models, tmp_path):
    n, options = n_of(method), options_of(method)
    streamed = class_of(method)(**options).run(make_pool(models, n))
    lazy = make_pool(models, n)
    lazy.enable_lazy_loading = False
    modules = {name: lazy.load_model(name) for name in lazy.all_model_names}
    before = {name: module.state_dict()["model.norm.weight"].clone() for name, module in modules.items()}
    out = tmp_path / "child"
    child = class_of(method)(**options, model_save_path=str(out)).run(BaseModelPool(modules))
    assert_same(child.state_dict(), streamed.state_dict())
    assert verify(out).ok
    for name, module in modules.items():
        assert torch.equal(module.state_dict()["model.norm.weight"], before[name])


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.takes(1)], ids=lambda m: m.name)
def test_slices_of_any_number_of_models(method: Method, models, tmp_path):
    base = models["base"] if method.uses_base(method.options()) else None
    layers = [[0, 1], [1, 2], [0, 1]]
    slices = [{name: part} for name, part in zip(NAMES, layers, strict=True)]
    labelled = [{label: part} for label, part in zip("abc", layers, strict=True)]
    if base is not None:
        slices = [each | {"_pretrained_": part} for each, part in zip(slices, layers, strict=True)]
        labelled = [each | {"base": part} for each, part in zip(labelled, layers, strict=True)]
    parents = [models[name] for name in NAMES]
    merge(*parents, out=tmp_path / "same", base=base, method=method.name, slices=labelled)
    child = class_of(method)(slices=slices).run(make_pool(models, len(NAMES)))
    assert child.config.num_hidden_layers == len(NAMES)
    assert_same(child.state_dict(), load_file(tmp_path / "same/model.safetensors"))


# The base.


def linears(*names: str) -> BaseModelPool:
    torch.manual_seed(0)
    return BaseModelPool({name: nn.Linear(3, 2) for name in names})


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.base == "needed"], ids=lambda m: m.name)
def test_a_base_that_is_needed_and_lacks_is_refused(method: Method, models):
    with pytest.raises(SettingsError) as caught:
        class_of(method)().run(make_pool(models, n_of(method), has_base=False))
    message = str(caught.value)
    assert f"{method.name} needs a base" in message
    assert "Fix: use ++modelpool.models._pretrained_=MODEL" in message


@pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if not m.uses_base(m.options())], ids=lambda m: m.name
)
def test_a_base_is_ignored_where_none_is_taken_and_the_log_says_so(method: Method, models, caplog):
    n = n_of(method)
    without = class_of(method)(**required(method)).run(make_pool(models, n, has_base=False))
    with caplog.at_level(logging.INFO, "fusion_slerp"):
        child = class_of(method)(**required(method)).run(make_pool(models, n))
    assert_same(child.state_dict(), without.state_dict())
    why = "uses a base only with towards_base" if method.base_is_target else "takes no base"
    assert f"_pretrained_ of the pool is ignored: {method.name} {why}" in caplog.messages


@pytest.mark.parametrize(
    "method",
    [m for m in METHODS.values() if m.base == "optional" and not m.base_is_target],
    ids=lambda m: m.name,
)
def test_a_base_that_is_taken_without_need_is_announced(method: Method, models, caplog):
    n = n_of(method)
    without = class_of(method)(**required(method)).run(make_pool(models, n, has_base=False))
    assert not any("_pretrained_" in message for message in caplog.messages)
    with caplog.at_level(logging.INFO, "fusion_slerp"):
        child = class_of(method)(**required(method)).run(make_pool(models, n))
    assert any("'~modelpool.models._pretrained_' merges without one" in each for each in caplog.messages)
    assert any(
        not torch.equal(tensor, without.state_dict()[name]) for name, tensor in child.state_dict().items()
    )


def test_other_special_entries_are_not_merged(caplog):
    with caplog.at_level(logging.INFO, "fusion_slerp"):
        SlerpForCausalLM(0.5).run(linears("x", "_merged_", "y"))
    assert any("_merged_ of the pool is not merged" in message for message in caplog.messages)


def test_the_number_of_models_does_not_count_the_base():
    with pytest.raises(SettingsError) as caught:
        SlerpForCausalLM(0.5).run(linears("_pretrained_", "x"))
    message = str(caught.value)
    assert "exactly 2 models, not 1" in message
    assert "modelpool.models: x (and _pretrained_, which does not count)" in message


def test_loaded_models_are_not_moved_towards_a_base_that_the_pool_lacks():
    with pytest.raises(SettingsError) as caught:
        SlerpForCausalLM(0.5, towards_base=0.3).run(linears("x", "y"))
    message = caught.value.message("hydra")
    assert "towards_base without a base" in message
    assert "++modelpool.models._pretrained_=FOLDER" in message


def test_the_tokenizer_may_be_that_of_the_base(models, tmp_path):
    base = shutil.copytree(models["base"], tmp_path / "base")
    file = base / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=7))
    pool = make_pool(models | {"base": str(base)}, 2)
    pool.tokenizer = str(base)
    WITH_BASE(model_save_path=str(tmp_path / "child")).run(pool)
    assert (tmp_path / "child/tokenizer.json").read_bytes() == file.read_bytes()


def test_a_base_in_memory_must_fit_the_models():
    pool = BaseModelPool({**linears("x", "y")._models, "_pretrained_": nn.Linear(4, 2)})
    with pytest.raises(MismatchError, match=r"weight differs(.|\n)*Fix:"):
        WITH_BASE().run(pool)
