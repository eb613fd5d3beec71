"""The plan: how every tensor will be made, and every problem, before a weight is read."""

import logging
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from fusion_slerp import CheckpointError, FusionSlerpError, MismatchError, OutputError, merge, plan_merge
from fusion_slerp.errors import Problem, listed, nearest, raise_all
from fusion_slerp.sources.folder import open_checkpoint
from tests.models import (
    SHAPES,
    contents,
    names_in,
    tiny_tensors,
    tokenizer_json,
    write_checkpoint,
    write_json,
)


def test_every_tensor_of_the_inputs_is_accounted_for(parents):
    plan = plan_merge(*parents, t=0.25)
    a, b = (open_checkpoint(folder) for folder in parents)
    assert plan.parents == {"a": a, "b": b}
    assert {tensor.out.name: tensor.sources for tensor in plan.tensors} == {
        name: {"a": a.tensors[name], "b": b.tensors[name]} for name in SHAPES
    }
    for tensor in plan.tensors:
        assert (str(tensor.work), tensor.values) == ("merge", {"t": 0.25})
    assert {tensor.out.name: tensor.out.shape for tensor in plan.tensors} == SHAPES
    assert plan.tokenizer.folder == parents[0]
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("t", "float_action", "integer_action", "n_sources"),
    [(0, "copy a", "copy a", 1), (0.5, "merge", "copy if equal", 2), (1.0, "copy b", "copy b", 1)],
)
def test_actions(tmp_path, t, float_action, integer_action, n_sources):
    tensors = {"w": np.ones(4, "float32"), "ids": np.arange(3)}
    folders = [write_checkpoint(tmp_path / name, tensors=tensors) for name in "ab"]
    plan = plan_merge(*folders, t=t)
    assert {tensor.out.name: str(tensor.work) for tensor in plan.tensors} == {
        "w": float_action,
        "ids": integer_action,
    }
    nbytes = 4 * 4 + 3 * 8
    assert all(len(tensor.sources) == n_sources for tensor in plan.tensors)
    assert plan.nbytes_in == plan.nbytes_read == nbytes * n_sources
    assert plan.nbytes_written == sum(len(shard.header) for shard in plan.shards) + nbytes


def test_types_of_the_child_are_those_of_a_tensor_by_tensor(tmp_path):
    codes = {"x": ("float32", "float16"), "y": ("float16", "float64"), "z": ("int64", "int64")}
    for i, name in enumerate("ab"):
        tensors = {key: np.ones(2, dtypes[i]) for key, dtypes in codes.items()}
        write_checkpoint(tmp_path / name, tensors=tensors)
    folders = tmp_path / "a", tmp_path / "b"
    types = {t.out.name: t.out.dtype.name for t in plan_merge(*folders).tensors}
    assert types == {"x": "float32", "y": "float16", "z": "int64"}
    types = {
        t.out.name: (t.out.dtype.name, t.out.nbytes) for t in plan_merge(*folders, dtype="bfloat16").tensors
    }
    assert types == {"x": ("bfloat16", 4), "y": ("bfloat16", 4), "z": ("int64", 16)}


def test_the_plan_is_a_value(parents):
    plan = plan_merge(*parents)
    assert plan == plan_merge(*parents)
    assert plan != plan_merge(*parents, t=0.1)
    with pytest.raises(FrozenInstanceError):
        plan.parents = {}


def test_planning_writes_nothing_and_reads_no_weights(tmp_path, parents, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("a weight was read")

    monkeypatch.setattr("fusion_slerp.sources.elements.read_at", forbidden)
    before = contents(tmp_path)
    plan_merge(*parents)
    assert contents(tmp_path) == before
    with pytest.raises(AssertionError, match="a weight was read"):
        merge(*parents, out=tmp_path / "child")
    assert contents(tmp_path) == before


def test_shards_of_the_parents_need_not_be_alike(tmp_path):
    a = write_checkpoint(tmp_path / "a", seed=1, n_shards=3)
    b = write_checkpoint(tmp_path / "b", seed=2)
    plan = plan_merge(a, b)
    assert {tensor.out.name for tensor in plan.tensors} == SHAPES.keys()
    assert [shard.file_name for shard in plan.shards] == ["model.safetensors"]


# --- warnings -------------------------------------------------------------------------------------------


def test_all_warnings_are_in_the_plan_and_in_the_log(tmp_path, caplog):
    a = write_checkpoint(tmp_path / "a", seed=1, config={"rope_theta": 1e4})
    b = write_checkpoint(tmp_path / "b", seed=2)
    (a / "pytorch_model.bin").write_bytes(b"")
    (b / "model.gguf").write_bytes(b"")
    write_json(tmp_path / "b/tokenizer.json", {"unreadable": True})
    warnings = (
        f"{a}: not read: pytorch_model.bin",
        f"{b}: not read: model.gguf",
        "the configs differ in rope_theta: 10000.0 (a), 500000.0 (b)",
        f"the vocabularies could not be compared; no readable tokenizer in {b}; "
        "rows are assumed to have the same tokens in both",
    )
    assert plan_merge(a, b).warnings == warnings
    merge(a, b, out=tmp_path / "child")
    logged = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert logged == list(warnings)


def test_a_parent_without_a_tokenizer(tmp_path):
    a = write_checkpoint(tmp_path / "a", tokens=None)
    b = write_checkpoint(tmp_path / "b", tokens=None)
    none = "has tokenizer files, so the merged model has none"
    assert plan_merge(a, b).warnings == (f"neither {a} nor {b} {none}",)
    none = "has no tokenizer files, so the merged model has none"
    assert plan_merge(a, b, tokenizer="a").warnings == (f"{a} {none}",)
    with pytest.raises(CheckpointError, match=r"no tokenizer there\n  tokenizer: b"):
        plan_merge(a, b, tokenizer="b")


def test_the_rows_follow_a_third_tokenizer(tmp_path, parents):
    other = write_checkpoint(tmp_path / "other")
    write_json(other / "tokenizer.json", tokenizer_json(added={"<x>": 6}))
    plan = plan_merge(*parents, tokenizer=str(other))
    assert plan.tokenizer.folder == other
    assert plan.warnings == ()
    assert plan.notes == ("vocabularies of 6 and 6 rows, 7 in the merged model: 6 merged, 1 filled",)


@pytest.mark.parametrize(("setting", "index"), [("a", 0), ("b", 1)])
def test_tokenizer_of_a_parent_by_letter_or_by_name(parents, setting, index):
    for name in (setting, str(parents[index])):
        assert plan_merge(*parents, tokenizer=name).tokenizer.folder == parents[index]


# --- all problems at once -------------------------------------------------------------------------------


def test_problems_of_configs_names_shapes_and_the_output_come_together(tmp_path):
    a = write_checkpoint(tmp_path / "a", config={"num_attention_heads": 1})
    tensors = tiny_tensors(2)
    tensors["model.norm.weight"] = np.ones(5, "float32")
    tensors["model.norm.bias"] = tensors.pop("lm_head.weight")
    b = write_checkpoint(tmp_path / "b", tensors=tensors)
    with pytest.raises(MismatchError) as caught:
        merge(a, b, out=a)
    headlines = [problem.headline for problem in caught.value.problems]
    assert headlines == [
        "the models differ in num_attention_heads",
        "the tensor names differ",
        "the shapes of 1 tensors differ",
        "the output is model a",
        "the output exists",
    ]
    message = str(caught.value)
    assert message.startswith(
        "5 problems, nothing was written:\n\n[1] the models differ in num_attention_heads\n"
    )
    assert message.count("Fix: ") == 5


def test_problems_of_both_parents_come_together(tmp_path):
    a = write_checkpoint(tmp_path / "a", config={"quantization_config": {}})
    (a / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        merge(a, tmp_path / "b", out=tmp_path / "child")
    message = str(caught.value)
    assert message.startswith("3 problems, nothing was written:")
    for headline in ("quantised weights cannot be merged", "damaged safetensors file", "model not found"):
        assert headline in message
    assert names_in(tmp_path) == ["a"]


def test_ten_problems_are_shown_and_the_rest_counted(tmp_path):
    keys = "hidden_size n_embd d_model n_inner n_head num_heads head_dim intermediate_size n_routed_experts "
    keys += "num_key_value_heads"
    config = dict.fromkeys(keys.split(), 3) | {"num_experts": 3, "num_local_experts": 3}
    a = write_checkpoint(tmp_path / "a", config=config)
    b = write_checkpoint(tmp_path / "b", config=dict.fromkeys(config, 4))
    with pytest.raises(MismatchError) as caught:
        plan_merge(a, b)
    message = str(caught.value)
    assert message.startswith("12 problems, nothing was written:")
    assert message.count("\n[") == 10
    assert message.endswith("\n\n... and 2 more")


# --- how problems are worded ----------------------------------------------------------------------------


def test_wording_of_a_problem():
    problem = Problem(OutputError, "the disk is made of cheese", (("file", "x"), ("found", 3)), "buy a disk")
    assert str(problem) == "the disk is made of cheese\n  file: x\n  found: 3\nFix: buy a disk"
    assert str(problem.error()) == str(problem)
    assert type(problem.error()) is OutputError


def test_no_problem_raises_nothing_and_one_is_not_numbered():
    raise_all([])
    problem = Problem(MismatchError, "one", (), "do")
    with pytest.raises(MismatchError) as caught:
        raise_all([problem])
    assert str(caught.value) == "one\nFix: do"
    assert caught.value.problems == (problem,)


def test_the_class_is_that_of_the_first_and_errors_keep_their_problems():
    first = Problem(OutputError, "first")
    rest = [Problem(CheckpointError, "second"), Problem(MismatchError, "third")]
    with pytest.raises(CheckpointError) as inner:
        raise_all(rest)
    with pytest.raises(OutputError) as caught:
        raise_all([first, inner.value])
    assert caught.value.problems == (first, *rest)
    assert isinstance(caught.value, FusionSlerpError)


def test_nearest_and_listed():
    assert nearest("qk_proj", ["q_proj", "gate"]) == " (did you mean 'q_proj'?)"
    assert nearest("bf16", ["BF16", "F16"]) == " (did you mean 'BF16'?)"
    assert nearest("xyz", ["q_proj"]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b, ... and 1 more"


def test_a_model_that_is_wider_than_the_type_of_the_merged_model_is_a_warning(tmp_path):
    half = {name: each.astype("f2") for name, each in tiny_tensors(1).items()}
    a = write_checkpoint(tmp_path / "a", tensors=half)
    b = write_checkpoint(tmp_path / "b", tensors=half | {"model.norm.weight": np.ones(4, "f4")})
    for dtype, warnings in {
        "float16": (f"{b}: 1 tensor in float32 will be rounded to float16",),
        "bfloat16": (f"{b}: 1 tensor in float32 will be rounded to bfloat16",),
        "float32": (),
        None: (),
    }.items():
        assert plan_merge(a, b, dtype=dtype).warnings == warnings
    assert plan_merge(a, a, dtype="fp16").warnings == ()
