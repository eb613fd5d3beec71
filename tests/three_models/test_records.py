"""Manifest, report and card of a merge of three models; its verification."""

import json
import re

import pytest
from safetensors.numpy import save_file

from fusion_slerp import CheckpointError, merge, verify
from tests.models import contents
from tests.three_models.models import LINEAR, UP, WEIGHT, tensors_of, weights_of


def test_verified_with_inputs_and_all_made_again(tmp_path, beside):
    child = tmp_path / "models/child"
    merge(*beside, out=child, **LINEAR, max_shard_size=200)
    result = verify(child, inputs=True, recompute="all")
    assert result.ok, str(result)
    assert sorted(result.recomputed) == sorted(tensors_of(1))


def test_a_changed_source_model_is_found_and_named(tmp_path, beside):
    child = tmp_path / "models/child"
    merge(*beside, out=child, **LINEAR)
    tensors = weights_of(beside[2])
    tensors[UP.format(1)][0, 0] += 1
    save_file(tensors, beside[2] / "model.safetensors", {"format": "pt"})
    assert verify(child).ok
    (deviation,) = verify(child, inputs=True).deviations
    assert deviation.tensor == UP.format(1)
    assert deviation.found == "not what its source models make"


def test_all_models_that_are_not_there_are_named_at_once(tmp_path, three):
    merge(*three, out=tmp_path / "child", **LINEAR)
    with pytest.raises(CheckpointError) as caught:
        verify(tmp_path / "child", inputs=True)
    message = str(caught.value)
    assert message.startswith("cannot find models a ('a'), b ('b'), c ('c')\n")
    for label in "abc":
        assert f"--model {label}=FOLDER" in message
    models = dict(zip("abc", three, strict=True))
    assert verify(tmp_path / "child", inputs=True, recompute="all", models=models).ok


# --- report, manifest and card ---


def test_the_report_names_weights_and_why_tensors_were_copied(tmp_path, three):
    head = {"filter": "lm_head", "value": 0}
    weight = {"a": [head, {"value": 1}], "b": [head, {"value": 2}], "c": [1, 0]}
    merge(*three, out=tmp_path / "child", method="linear", weight=weight)
    rows = {
        row["name"]: row for row in json.loads((tmp_path / "child/merge_report.json").read_text())["tensors"]
    }
    head, first, last = rows["lm_head.weight"], rows[UP.format(0)], rows[UP.format(2)]
    assert head == {
        "name": "lm_head.weight",
        "action": "copy c",
        "why": "values",
        "weight": {"a": 0, "b": 0, "c": 1},
        "n_elements": 24,
    }
    assert first == {
        "name": UP.format(0),
        "action": "linear",
        "weight": {"a": 1, "b": 2, "c": 1},
        "n_elements": 32,
    }
    assert last["weight"] == {"a": 1, "b": 2, "c": 0}
    assert (rows["model.ids"]["action"], rows["model.ids"]["why"]) == ("copy if equal", "integer")


def test_the_manifest_knows_every_model(tmp_path, three):
    merge(*three, out=tmp_path / "child", **LINEAR)
    manifest = json.loads((tmp_path / "child/merge_manifest.json").read_text())
    assert list(manifest["parents"]) == ["a", "b", "c"]
    for folder in three:
        row = manifest["parents"][folder.name]
        assert row["model"] == folder.name
        assert set(row["files"]) == {path.name for path in folder.glob("*.safetensors")}
    assert (manifest["settings"]["method"], manifest["settings"]["weight"]) == ("linear", WEIGHT)
    assert str(three[0].parent) not in json.dumps(manifest)


def test_the_card_names_all_models_and_its_call_makes_the_same(tmp_path, three, monkeypatch):
    merge(*three, out=tmp_path / "child", **LINEAR, dtype="bfloat16")
    text = (tmp_path / "child/README.md").read_text()
    assert "| label | model | revision | weight |" in text
    assert "| a | a | local | varies, see below |" in text
    assert "| b | b | local | 0.3 |" in text
    assert "| c | c | local | varies, see below |" in text
    assert "_target_: fusion_slerp.LinearForCausalLM" in text
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "merge(" in code]
    (tmp_path / "again").mkdir()
    for folder in three:
        (tmp_path / "again" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path / "again")
    exec(code, {})
    assert contents(tmp_path / "again/child") == contents(tmp_path / "child")
