"""`fusion_slerp inspect`: facts, angles and norms."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import merge, plan_merge
from fusion_slerp.engine.measuring import measure
from fusion_slerp.tensor_names import module_of
from tests.cli.conftest import DEMO
from tests.every_method import write_family
from tests.models import CONFIG, SHAPES, tiny_tensors, write_checkpoint, write_json


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
        "config": {
            "num_hidden_layers": 5,
            "hidden_size": 160,
            "vocab_size": 2048,
            "dtype": "bfloat16",
        },
        "quantised": None,
        "adapter": None,
        "problems": [],
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


def test_2_for_a_model_that_is_not_there(command, tmp_path):
    ended = command("inspect", tmp_path, tmp_path / "nothing")
    assert ended.code == 2
    assert "no usable config.json" not in ended.err
    assert ended.err.startswith(f"error: {tmp_path / 'nothing'}: model not found")


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
    ended = command("inspect", DEMO / "plays", DEMO / "code", "--all")
    assert ended.code == 0
    header = next(line for line in ended.out.splitlines() if line.split()[:1] == ["attention"])
    assert header.split() == ["attention", "mlp", "norm"]
    rows = [line.split() for line in ended.out.splitlines() if line.strip()[:2] in ("0 ", "4 ")]
    assert [(row[0], len(row)) for row in rows] == [("0", 10), ("4", 10)]
    assert "model.embed_tokens.weight" in ended.out
    assert "largest angles\n  model.layers.0.self_attn.o_proj.weight" in ended.out
    assert "They can be merged" in ended.out


WIDER = {name: np.ones((*shape[:-1], 5), "float32") for name, shape in SHAPES.items()}


def test_more_than_two_are_compared_with_the_first(command, parents, tmp_path):
    c = write_checkpoint(tmp_path / "c", seed=3, config={"rope_theta": 1.0})
    d = write_checkpoint(tmp_path / "d", config={"hidden_size": 5}, tensors=WIDER)
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
    assert "warning (A, C): the configs differ in rope_theta" in out
    assert "Problems that prevent a merge of A and D:\n\n[1] the models differ in hidden_size" in out


def test_with_a_base_angles_and_norms_are_those_of_the_task_vectors(command, tmp_path):
    family = write_family(tmp_path)
    found = command("inspect", *family.models[:2], "--base", family.base, "--json").json
    assert found["base"]["folder"] == str(family.base)
    assert found["can_be_merged"]
    a, b, base = (load_file(folder / "model.safetensors") for folder in (*family.models[:2], family.base))
    for row in (row for row in found["tensors"] if row["angle_deg"] is not None):
        x, y = ((each[row["name"]].astype("f8") - base[row["name"]]).reshape(-1) for each in (a, b))
        norms = np.linalg.norm(x), np.linalg.norm(y)
        assert (row["norm_a"], row["norm_b"]) == pytest.approx(norms)
        assert row["angle_deg"] == pytest.approx(np.degrees(np.arccos(x @ y / (norms[0] * norms[1]))))
    assert found["mean_angle_deg"] > 45
    text = command("inspect", *family.models, "--base", family.base).out
    assert "BASE: " in text
    assert "A and X stand for the models' differences from the base, their task vectors." in text


def test_a_base_needs_two_models(command, parents):
    ended = command("inspect", parents[0], "--base", parents[1])
    assert ended.code == 2
    assert "needed: two models or more" in ended.err
    assert f"Fix: fusion_slerp inspect {parents[0]} {parents[1]}" in ended.err


def test_problems_are_told_and_what_both_have_is_measured(command, parents, tmp_path):
    tensors = tiny_tensors(4)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    b = write_checkpoint(tmp_path / "b", tensors=tensors, config={"rope_theta": 1.0})
    ended = command("inspect", parents[0], b)
    assert ended.code == 0
    assert "Problems that prevent a merge:\n\nthe tensor names differ" in ended.out
    assert "warning: the configs differ in rope_theta" in ended.out
    assert "model.norm.weight" in ended.out
    assert "They can be merged" not in ended.out
    found = command("inspect", parents[0], b, "--json").json
    assert found["can_be_merged"] is False
    assert found["problems"][0]["headline"] == "the tensor names differ"


def test_models_of_other_sizes_are_compared_by_their_facts_alone(command, parents, tmp_path):
    b = write_checkpoint(tmp_path / "b", config={"hidden_size": 5}, tensors=WIDER)
    ended = command("inspect", parents[0], b)
    assert ended.code == 0
    assert "They cannot be merged:\n\n[1] the models differ in hidden_size" in ended.out


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


# --- whatever it is ---------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_named_and_the_others_compared(command, parents):
    tensors = tiny_tensors(5)
    tensors["model.norm.weight"][2] = np.inf
    tensors["lm_head.weight"][1, 1] = np.nan
    save_file(tensors, parents[1] / "model.safetensors", {"format": "pt"})
    found = command("inspect", *parents, "--json").json
    assert found["can_be_merged"] is False
    assert [(p["headline"], p["fields"][0][1]) for p in found["problems"]] == [
        ("NaN or infinity in a weight", "lm_head.weight"),
        ("NaN or infinity in a weight", "model.norm.weight"),
    ]
    assert [each["name"] for each in found["tensors"]] == [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
    ]
    ended = command("inspect", *parents)
    assert ended.code == 0
    assert "Problems that prevent a merge:\n\n[1] NaN or infinity in a weight\n" in ended.out


def test_many_weights_that_are_not_finite_are_counted(command, parents):
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(9)]
    for parent, value in zip(parents, (1, np.nan), strict=True):
        tensors = {name: np.full((8, 4), value, "float32") for name in names} | tiny_tensors(1)
        save_file(tensors, parent / "model.safetensors", {"format": "pt"})
        write_json(parent / "config.json", CONFIG | {"num_hidden_layers": 9})
    out = command("inspect", *parents).out
    assert out.count("NaN or infinity in a weight\n") == 5
    assert "[6] NaN or infinity in 3 more weights" in out
    assert "model.norm.weight" in out


def broken_shard(folder):
    write_checkpoint(folder, n_shards=4)
    file = folder / "model-00002-of-00004.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    return {"problems": ["damaged safetensors file"], "n_tensors": 3}


def lost_shard(folder):
    write_checkpoint(folder, n_shards=4)
    (folder / "model-00003-of-00004.safetensors").unlink()
    return {"problems": ["missing shards"], "n_tensors": 3}


def quantised(folder):
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    tensors = {"model.layers.0.mlp.up_proj.qweight": np.ones((8, 4), "int32")}
    write_checkpoint(folder, config=config, tensors=tensors)
    return {"problems": ["quantised weights cannot be merged"], "quantised": "gptq, 4 bits", "n_tensors": 1}


def quantised_and_broken(folder):
    broken_shard(folder)
    config = {"quantization_config": {}, "model_type": "x", "text_config": {"vocab_size": 6}}
    write_json(folder / "config.json", config)
    headlines = ["quantised weights cannot be merged", "damaged safetensors file"]
    return {"problems": headlines, "config": {"vocab_size": 6}, "n_tensors": 3}


def adapter(folder):
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "r": 16}
    write_json(folder / "adapter_config.json", config)
    save_file({"q_proj.lora_A.weight": np.ones((2, 4), "float32")}, folder / "adapter_model.safetensors")
    return {"n_tensors": 1, "adapter": "LORA, rank 16, for owner/base", "n_parameters": 8}


def gguf(folder):
    write_checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "model-Q4_K_M.gguf")
    return {"problems": ["no readable weights"], "files": {"model-Q4_K_M.gguf": 696}, "n_tokens": 6}


def empty(folder):
    folder.mkdir()
    return {"problems": ["no usable config.json", "no readable weights"], "n_parameters": 0}


def odd_config(folder):
    write_checkpoint(folder, config={"num_hidden_layers": "many", "vocab_size": [1], "architectures": [3]})
    (folder / "tokenizer.json").write_text("{" * 100)
    return {"problems": [], "n_tokens": None, "n_tensors": 4}


def no_json(folder):
    write_checkpoint(folder)
    (folder / "config.json").write_text("{broken")
    return {"problems": ["no usable config.json"], "config": {}, "n_tensors": 4}


@pytest.mark.parametrize(
    "make",
    [
        *(
            broken_shard,
            lost_shard,
            quantised,
            quantised_and_broken,
            adapter,
            gguf,
            empty,
            odd_config,
            no_json,
        ),
    ],
)
def test_anything_is_shown_and_problems_are_information(command, parents, tmp_path, make):
    folder = tmp_path / "odd"
    expected = make(folder)
    found = command("inspect", folder, "--json").json
    headlines = [problem["headline"] for problem in found["problems"]]
    assert headlines == expected.pop("problems", headlines)
    assert {key: found[key] for key in expected} == expected
    ended = command("inspect", folder)
    assert (ended.code, ended.err) == (0, "")
    assert all(headline in ended.out for headline in headlines)
    assert ("Problems that prevent a merge:" in ended.out) == bool(headlines)
    for models in ((parents[0], folder), (folder, parents[0]), (*parents, folder)):
        ended = command("inspect", *models)
        assert (ended.code, ended.err) == (0, "")
        assert all(headline in ended.out for headline in headlines)


def test_what_is_readable_of_a_damaged_model_is_compared(command, parents, tmp_path):
    for make in (broken_shard, lost_shard):
        folder = tmp_path / make.__name__
        make(folder)
        found = command("inspect", parents[0], folder, "--json").json
        assert found["can_be_merged"] is False
        assert len([each for each in found["tensors"] if each["angle_deg"] is not None]) == 3
        assert not any("only in" in warning for warning in found["warnings"])


LIES = {
    "num_hidden_layers": (7, "config.json says num_hidden_layers = 7, but the tensors have 1 layer"),
    "vocab_size": (99, "config.json says vocab_size = 99, but the embedding has 6 rows"),
    "model_type": (None, "config.json has no model_type, which transformers needs to load the model"),
}


@pytest.mark.parametrize("key", LIES)
def test_configs_that_contradict_the_tensors(command, parents, tmp_path, key):
    value, warning = LIES[key]
    folder = write_checkpoint(tmp_path / "lies", config={key: value})
    ended = command("inspect", folder)
    assert ended.code == 0
    assert ended.err == f"warning: {folder}: {warning}\n"
    ended = command("inspect", parents[0], folder)
    assert ended.code == 0
    assert f"warning: {folder}: {warning}\n" in ended.out
    assert "model.norm.weight" in ended.out  # the tensors are compared all the same


@pytest.mark.parametrize(
    ("config", "n_layers"),
    [
        ({"num_hidden_layers": 2, "num_nextn_predict_layers": 1}, 3),
        ({"num_hidden_layers": None, "text_config": {"n_layer": 3}}, 3),
        ({"num_hidden_layers": None}, 3),
    ],
)
def test_configs_that_do_not_lie(command, tmp_path, config, n_layers):
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": np.ones((8, 4), "float32") for i in range(n_layers)}
    folder = write_checkpoint(tmp_path / "a", config=config, tensors=tensors)
    assert command("inspect", folder).err == ""


def test_the_demo_models_and_folders_with_long_names_are_shown_without_breaks(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    long = write_checkpoint(tmp_path / ("long" * 20))
    lines = command("inspect", long, DEMO / "code").out.splitlines()
    assert lines[:2] == [f"A: {long}", f"B: {DEMO / 'code'}"]
    cells = [cell for line in lines for cell in line.split()]
    assert {"num_hidden_layers=1,", "num_hidden_layers=5,", "LlamaForCausalLM"} <= set(cells)
