"""`fusion_slerp plan`: a dry run."""

from __future__ import annotations

import json

import numpy as np

from fusion_slerp import plan_merge
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.cli import recent
from fusion_slerp.cli.amounts import nbytes_text
from tests.cli.conftest import DEMO
from tests.every_method import write_family
from tests.models import names_in, write_checkpoint

DEMOS = (DEMO / "plays", DEMO / "code")


def rows_of(text, beginning):
    return [line.split() for line in text.splitlines() if line.strip().startswith(beginning)]


def test_equal_tensors_of_all_layers_are_one_line(command):
    ended = command("plan", *DEMOS, "-t", "[0.2, 0.8]")
    assert ended.code == 0
    assert rows_of(ended.out, "model.layers.{0-4}.mlp.up_proj") == [
        ["model.layers.{0-4}.mlp.up_proj.weight", *"merge 0.2-0.8 432×160 bfloat16 691 kB".split()]
    ]
    assert len(rows_of(ended.out, "model.")) == 11


def test_other_actions_and_types_are_lines_of_their_own(command):
    t = "[{regex: 'layers.[013].mlp.up', value: 1}, {value: 0.5}]"
    out = command("plan", *DEMOS, "-t", t, "--dtype", "float32").out
    rows = [row for row in rows_of(out, "model.layers.") if ".up_proj" in row[0]]
    assert [row[:4] for row in rows] == [
        ["model.layers.{0,1,3}.mlp.up_proj.weight", "copy", "b", "1"],
        ["model.layers.{2,4}.mlp.up_proj.weight", "merge", "0.5", "432×160"],
    ]
    assert rows[0][-5:] == ["bfloat16", "->", "float32", "829", "kB"]


def test_all_lists_every_tensor(command):
    ended = command("plan", *DEMOS, "--all")
    assert len(rows_of(ended.out, "model.")) == 47


def test_rows_that_follow_tokens_are_told(command, parents, tmp_path):
    rng = np.random.default_rng(7)
    write_checkpoint(
        tmp_path / "b7",
        tokens=("<unk>", "or", "be", "to", "not", "##s", "more"),
        config={"vocab_size": 7},
        tensors={
            "lm_head.weight": rng.standard_normal((7, 4), np.float32),
            "model.embed_tokens.weight": rng.standard_normal((7, 4), np.float32),
            "model.layers.0.mlp.up_proj.weight": rng.standard_normal((8, 4), np.float32),
            "model.norm.weight": rng.standard_normal(4, np.float32),
        },
    )
    ended = command("plan", parents[0], tmp_path / "b7")
    assert "6 merged, 1 copied from b" in ended.out
    assert "note: vocabularies of 6 and 7 rows, 7 in the merged model" in ended.err
    assert "warning: " not in ended.err


def test_json_has_every_tensor_and_the_amounts(command, tmp_path):
    found = command("plan", *DEMOS, "-t", "0.3", "-o", tmp_path / "child", "--json").json
    plan = plan_merge(*map(str, DEMOS), t=0.3)
    assert [each["name"] for each in found["tensors"]] == [tensor.out.name for tensor in plan.tensors]
    assert found["tensors"][0] == {
        "name": "model.embed_tokens.weight",
        "action": "merge",
        "t": 0.3,
        "dtype": "bfloat16",
        "shape": [2048, 160],
        "bytes": 655360,
        "file": "model.safetensors",
        "rows": None,
    }
    assert found["bytes_read"] == plan.nbytes_read
    assert found["bytes_written"] > plan.nbytes_written
    assert found["peak_memory_bytes"] == plan.peak_nbytes
    assert found["free_bytes"] > found["bytes_written"]
    assert found["out"] == str(tmp_path / "child")
    assert found["rate_is_measured"] is False
    assert names_in(tmp_path) == []


def test_weights_are_a_column_and_fields(command, parents, tmp_path):
    c = write_checkpoint(tmp_path / "c", seed=3)
    words = (*parents, c, "--method", "linear", "-w", "{a: [0.2, 0.4], b: 1}")
    out = command("plan", *words).out
    assert [line.split() for line in out.splitlines() if line.strip() in ("weight", "t")] == [["weight"]]
    assert rows_of(out, "tensor")[0][2:5] == ["of", "a,", "b,"]
    assert rows_of(out, "model.norm")[0][:5] == ["model.norm.weight", "merge", "0.2,", "1,", "1"]
    found = command("plan", *words, "--json").json
    by_name = {each["name"]: each for each in found["tensors"]}
    assert by_name["model.layers.0.mlp.up_proj.weight"]["weight"] == {"a": 0.4, "b": 1.0, "c": 1.0}
    assert [found[label] for label in "abc"] == [*map(str, parents), str(c)]
    assert found["command"].endswith("""--method linear -w 'a=[0.2, 0.4]' -w b=1""")


def test_a_dash_stands_for_no_value(command, parents):
    t = "{filter: mlp, value: 0.5}"
    out = command("plan", *parents, "-t", t).out
    assert rows_of(out, "model.norm")[0][:4] == ["model.norm.weight", "copy", "a", "-"]
    out = command("plan", *parents, "--method", "linear", "-w", t).out
    assert rows_of(out, "model.norm")[0][:5] == ["model.norm.weight", "copy", "a", "-,", "-"]


def test_every_problem_is_told_and_the_code_is_2(command, parents, tmp_path):
    config = dict.fromkeys("hidden_size intermediate_size num_attention_heads head_dim n_head".split(), 99)
    config |= dict.fromkeys("n_embd d_model n_layer num_layers n_inner num_heads num_experts".split(), 98)
    base = dict.fromkeys(config, 1)
    a = write_checkpoint(tmp_path / "a", config=base)
    b = write_checkpoint(tmp_path / "b", config=config)
    (tmp_path / "child").mkdir()
    ended = command("plan", a, b, "-o", tmp_path / "child", "--json")
    assert ended.code == 2
    assert "13 problems" in ended.err
    assert "[12] the models differ in num_layers" in ended.err  # a merge shows ten of them
    assert "[13] the output exists" in ended.err
    assert len(ended.json["error"]["problems"]) == 13


def test_the_time_rests_on_the_last_large_merge_here(command, tmp_path):
    assert (
        "assuming 1.0 GB/s read and written (no earlier merge is large enough to measure by)"
        in command("plan", *DEMOS).out
    )
    recent.remember(map(str, DEMOS), nbytes=20_000_000, elapsed_s=0.001)  # too small to tell
    assert "no earlier merge" in command("plan", *DEMOS).out
    recent.remember(map(str, DEMOS), nbytes=500_000_000, elapsed_s=250.0)
    out = command("plan", *DEMOS).out
    assert "6 s at 2.0 MB/s read and written, as in the last large merge on this machine" in out
    assert json.loads(recent.state_file().read_text())["bytes_per_s"] == 2_000_000


def test_what_cannot_be_remembered_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    recent.remember(["a", "b"], 10**9, 1.0)
    assert recent.recent_models() == []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    recent.state_file().parent.mkdir(parents=True)
    recent.state_file().write_text("{broken")
    assert recent.measured_rate() is None
    recent.remember(["owner/b", "owner/a"], 1, 1.0)
    recent.remember(["owner/c", "owner/a"], 1, 1.0)
    assert recent.recent_models() == ["owner/c", "owner/a", "owner/b"]


def test_no_word_of_a_plan_is_broken_in_a_narrow_terminal(command, tmp_path, monkeypatch):
    recent.remember(map(str, DEMOS), nbytes=500_000_000, elapsed_s=250.0)
    words = ("plan", *DEMOS, "-o", tmp_path / "child")
    monkeypatch.setenv("COLUMNS", "300")
    wide = command(*words).out.replace("─", "").split()
    monkeypatch.setenv("COLUMNS", "50")
    assert command(*words).out.replace("─", "").split() == wide


def test_what_large_tensors_may_take_is_shown_where_a_method_counts(command, tmp_path):
    family = write_family(tmp_path, n=2, more={"model.large": (2, CHUNK_ELEMENTS)}, dtype="float16")
    words = (*family.models, "--method", "ties", "--base", family.base, "--density")
    plan = plan_merge(*family.models, method="ties", base=family.base, density=0.5)
    assert plan.nbytes_read < plan.nbytes_read_most
    once, most = nbytes_text(plan.nbytes_read), nbytes_text(plan.nbytes_read_most)
    assert f"{once} to {most}, as the values require" in command("plan", *words, "0.5").out
    found = command("plan", *words, "0.5", "--json").json
    assert (found["bytes_read"], found["bytes_read_most"]) == (plan.nbytes_read, plan.nbytes_read_most)
    assert "as the values require" not in command("plan", *words, "1").out
    assert "0.5, 0.25" in command("plan", *words, "{a: 0.5, b: 0.25}").out
