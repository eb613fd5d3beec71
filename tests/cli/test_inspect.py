"""`fusion_slerp inspect`: facts, angles and norms."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import merge, plan_merge
from fusion_slerp.engine.measuring import measure
from fusion_slerp.tensor_names import module_of
from tests.cli.conftest import DEMO
from tests.models import tiny_tensors, write_checkpoint


def test_the_facts_of_a_demo_model(command):
    found = command("inspect", DEMO / "plays", "--json").json
    del found["folder"], found["source"]
    assert found.pop("n_parameters") == found["dtypes"]["bfloat16"]
    assert found == {
        "revision": None,
        "architecture": "LlamaForCausalLM (llama)",
        "n_tensors": 47,
        "dtypes": {"bfloat16": 1878240},
        "n_layers": 5,
        "files": {"model.safetensors": (DEMO / "plays/model.safetensors").stat().st_size},
        "n_rows": 2048,
        "n_tokens": 2048,
        "tokenizer": "BPE in tokenizer.json",
        "special": {"bos": "<|endoftext|> (0)", "eos": "<|endoftext|> (0)"},
        "has_chat_template": False,
        "is_tied": True,
        "stores_head": False,
        "warnings": [],
    }


def test_the_table_says_it_in_words_and_warnings_follow(command, parents):
    (parents[0] / "model.gguf").write_bytes(b"x")
    (parents[0] / "chat_template.jinja").write_text("{{ messages }}")
    ended = command("inspect", parents[0])
    assert ended.code == 0
    lines = dict(line.strip().split("  ", 1) for line in ended.out.splitlines() if "  " in line.strip())
    lines = {name: value.strip() for name, value in lines.items()}
    assert lines["parameters"] == "84 in 4 tensors"
    assert lines["chat template"] == "yes"
    assert lines["head tied"] == "no"
    assert lines["tokenizer"] == "6 tokens, WordLevel in tokenizer.json"
    assert "not read: model.gguf" in ended.err


def test_2_for_what_is_no_checkpoint(command, tmp_path):
    ended = command("inspect", tmp_path, tmp_path / "nothing")
    assert ended.code == 2
    assert "no usable config.json" in ended.err
    assert "model not found" in ended.err


# --- two of them ----------------------------------------------------------------------------------------


def angle_and_norms(a, b):
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norms = np.linalg.norm(a), np.linalg.norm(b)
    return np.degrees(np.arccos(a @ b / norms[0] / norms[1])), *norms


def test_angles_and_norms_are_those_of_numpy(command, parents):
    found = command("inspect", *parents, "--json").json
    a, b = (load_file(parent / "model.safetensors") for parent in parents)
    expected = {name: angle_and_norms(a[name], b[name]) for name in a}
    assert found["can_be_merged"] is True
    for each in found["tensors"]:
        assert (each["angle_deg"], each["norm_a"], each["norm_b"]) == pytest.approx(expected[each["name"]])
    mlp = expected["model.layers.0.mlp.up_proj.weight"]
    assert found["layers"] == {"0": {"mlp": pytest.approx(list(mlp))}}
    weights = [a[name].size for name in a]
    mean = np.average([expected[name][0] for name in a], weights=weights)
    assert found["mean_angle_deg"] == pytest.approx(mean)
    by_angle = sorted(expected, key=lambda name: -expected[name][0])
    assert found["largest"] == by_angle


def test_the_measurements_are_those_of_a_merge(tmp_path):
    rng = np.random.default_rng(3)
    tensors = [
        {name: rng.standard_normal(v.shape, np.float32) for name, v in tiny_tensors(1).items()}
        | {"model.layers.0.mlp.down_proj.weight": rng.standard_normal((1500, 2000), np.float32)}
        for _ in range(2)
    ]
    a, b = (write_checkpoint(tmp_path / name, tensors=each) for name, each in zip("ab", tensors, strict=True))
    found = list(measure(plan_merge(a, b)))
    merged = merge(a, b, out=tmp_path / "child").report
    assert tuple(each.report for each in found) == tuple(each._replace(digest=None) for each in merged)
    assert sum(each.nbytes for each in found) == plan_merge(a, b).nbytes_in


def test_the_table_has_layers_by_modules_and_the_rest_below(command):
    ended = command("inspect", DEMO / "plays", DEMO / "code")
    assert ended.code == 0
    header = next(line for line in ended.out.splitlines() if "attention" in line)
    assert header.split() == ["attention", "mlp", "norm"]
    rows = [line.split() for line in ended.out.splitlines() if line.strip()[:2] in ("0 ", "4 ")]
    assert [(row[0], len(row)) for row in rows] == [("0", 10), ("4", 10)]
    assert "model.embed_tokens.weight" in ended.out
    assert "largest angles\n  model.layers.0.self_attn.o_proj.weight" in ended.out
    assert "They can be merged" in ended.out


def test_more_than_two_are_compared_with_the_first(command, parents, tmp_path):
    c = write_checkpoint(tmp_path / "c", seed=3, config={"rope_theta": 1.0})
    d = write_checkpoint(tmp_path / "d", config={"hidden_size": 5})
    models = [*parents, c, d]
    found = command("inspect", *models, "--json").json
    assert [found[label]["source"] for label in "abcd"] == list(map(str, models))
    for label, other in zip("bc", models[1:3], strict=True):
        pair = command("inspect", parents[0], other, "--json").json
        assert found["from_a"][label] == {key: value for key, value in pair.items() if key not in "ab"}
    assert found["from_a"]["d"]["can_be_merged"] is False
    out = command("inspect", *models).out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line[:2] in ("B ", "C ", "D ")}
    weights = [load_file(model / "model.safetensors") for model in models[:2]]
    angles = {name: angle_and_norms(each, weights[1][name])[0] for name, each in weights[0].items()}
    assert (
        rows["B"][1]
        == f"{np.average(list(angles.values()), weights=[w.size for w in weights[0].values()]):.2f}"
    )
    assert rows["B"][2:4] == ["-", f"{angles['model.layers.0.mlp.up_proj.weight']:.2f}"]
    assert rows["D"][1:] == ["-"] * 6
    assert "doubtful (A, C): the configs differ in rope_theta" in out
    assert "Problems that prevent a merge of A and D:\n\nthe models differ in hidden_size" in out


def test_problems_are_told_and_what_both_have_is_measured(command, parents, tmp_path):
    tensors = tiny_tensors(4)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    b = write_checkpoint(tmp_path / "b", tensors=tensors, config={"rope_theta": 1.0})
    ended = command("inspect", parents[0], b)
    assert ended.code == 0
    assert "Problems that prevent a merge:\n\nthe tensor names differ" in ended.out
    assert "doubtful: the configs differ in rope_theta" in ended.out
    assert "model.norm.weight" in ended.out
    assert "They can be merged" not in ended.out
    found = command("inspect", parents[0], b, "--json").json
    assert found["can_be_merged"] is False
    assert found["problems"][0]["headline"] == "the tensor names differ"


def test_models_of_other_sizes_are_compared_by_their_facts_alone(command, parents, tmp_path):
    b = write_checkpoint(tmp_path / "b", config={"hidden_size": 5})
    ended = command("inspect", parents[0], b)
    assert ended.code == 0
    assert "They cannot be merged:\n\nthe models differ in hidden_size" in ended.out


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("model.layers.0.post_attention_layernorm.weight", "norm"),
        ("transformer.h.1.ln_1.bias", "norm"),
        ("transformer.h.1.attn.c_attn.weight", "attention"),
        ("transformer.h.1.mlp.c_fc.weight", "mlp"),
        ("model.layers.3.block_sparse_moe.experts.7.w1.weight", "mlp"),
        ("model.embed_tokens.weight", "other"),
        ("lm_head.weight", "other"),
        ("model.norm.weight", "norm"),
    ],
)
def test_modules_are_known_by_their_names(name, module):
    assert module_of(name) == module


def test_a_weight_that_is_not_finite_is_an_error(command, parents):
    tensors = tiny_tensors(5)
    tensors["model.norm.weight"][2] = np.inf
    save_file(tensors, parents[1] / "model.safetensors", {"format": "pt"})
    ended = command("inspect", *parents, "--json")
    assert ended.code == 2
    assert ended.json["error"]["problems"][0]["headline"] == "NaN or infinity in a weight"
