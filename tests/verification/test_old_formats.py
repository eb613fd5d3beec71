"""Models of older formats and of other rules: verified as far as their bytes are certain.

tests/samples verifies a model of each format, and its source models, in every way.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, SettingsError, merge, verify
from fusion_slerp.output.manifest import manifest_text, read_manifest
from fusion_slerp.output.merge_report import read_report
from fusion_slerp.planning.rules import RULES, SUMS_IN_64_LANES, WORDS_IN_HALVES
from fusion_slerp.settings.merge_settings import make_settings
from tests.expert_layouts import LAYOUTS, write_experts
from tests.models import write_checkpoint
from tests.samples.merges import FORMAT1

MANIFEST = "merge_manifest.json"


@pytest.fixture
def format_1(tmp_path) -> Path:
    """A merged model of format 1, next to its source models."""
    shutil.copytree(FORMAT1.folder / "models", tmp_path / "models")
    return tmp_path / "models/merged"


def with_rules(folder: Path, monkeypatch, rules: int) -> Path:
    """Lets a manifest say that its model was merged by other rules; returns the folder."""
    content = read_manifest(folder)
    monkeypatch.setattr("fusion_slerp.output.manifest.RULES", rules)
    settings = make_settings(**content["settings"])
    text = manifest_text(content["parents"], settings, content["files"], content["tensors"])
    monkeypatch.undo()
    (folder / MANIFEST).write_text(text)
    assert read_manifest(folder)["rules"] == rules
    return folder


# --- format 1 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"follow_links": False, "surprise": 1}, "no setting 'surprise'"),
        ({"t": 2}, "invalid t"),
        ({"method": "none"}, "invalid method"),
        ({"method": "slerp", "weight": 1}, "slerp has no option weight"),
    ],
)
def test_settings_of_a_stranger_are_checked(format_1, monkeypatch, settings, message):
    content = read_manifest(format_1)
    monkeypatch.setattr("fusion_slerp.output.manifest.child_settings", lambda given: given)
    text = manifest_text(content["parents"], settings, content["files"], content["tensors"])
    (format_1 / MANIFEST).write_text(text)
    assert verify(format_1).ok
    with pytest.raises(SettingsError, match=message):
        verify(format_1, inputs=True)


def with_tensor(folder: Path, name: str, tensor: np.ndarray) -> Path:
    """A copy of a model with another tensor."""
    tensors = {**load_file(folder / "model.safetensors"), name: tensor}
    return write_checkpoint(folder.with_name(f"{folder.name}-with-{name}"), tensors=tensors)


# --- other rules ----------------------------------------------------------------------------------------


def test_matrices_merged_by_columns_are_not_made_again_by_other_rules(tmp_path, parents, monkeypatch):
    merge(*parents, out=tmp_path / "models/child", granularity="column")
    child = with_rules(tmp_path / "models/child", monkeypatch, 1)
    with pytest.raises(CheckpointError, match=f"rules 1; this version merges by rules {RULES}") as caught:
        verify(child, recompute="all")
    assert "the last digits of matrices that are merged by columns" in str(caught.value)
    assert verify(child, inputs=True).ok


@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_tensors_that_are_measured_are_not_made_again_by_other_rules(
    tmp_path, parents, monkeypatch, granularity
):
    """Those of more than 128 elements: smaller ones have the same bytes."""
    with_more = [
        with_tensor(parent, "more", np.ones((5, 26), "f4") * k) for k, parent in enumerate(parents, 2)
    ]
    for size, models in (128, parents), (130, with_more):
        child = tmp_path / f"models/child-{size}"
        merge(*models, out=child, granularity=granularity)
        with_rules(child, monkeypatch, SUMS_IN_64_LANES - 1)
        assert verify(child, inputs=True).ok
        if size == 128:
            assert verify(child, recompute="all").ok
            continue
        with pytest.raises(CheckpointError, match="merged by other rules") as caught:
            verify(child, recompute="all")
        assert "differs in: the last digits of sums over elements" in str(caught.value)
        assert "tensors: more\n" in str(caught.value)


@pytest.mark.parametrize("rules", [RULES, SUMS_IN_64_LANES - 1])
def test_last_digits_of_norms_and_angles_may_differ_by_older_rules(tmp_path, parents, monkeypatch, rules):
    def slightly_different(path: Path) -> dict[str, dict[str, Any]]:
        rows = read_report(path)
        for row in rows.values():
            row["norms"] = {label: norm * (1 + 4e-16) for label, norm in row["norms"].items()}
            row["angle_deg"] = row["angle_deg"] and row["angle_deg"] * (1 + 4e-16)
        return rows

    merge(*parents, out=tmp_path / "models/child")
    child = with_rules(tmp_path / "models/child", monkeypatch, rules)
    assert verify(child, inputs=True).ok
    monkeypatch.setattr("fusion_slerp.verification.verify.read_report", slightly_different)
    result = verify(child, inputs=True)
    assert result.ok == (rules < SUMS_IN_64_LANES)
    assert result.measured > 0


def test_tensors_that_are_not_compared_are_counted(tmp_path, parents, monkeypatch):
    """TIES has no norms; tensors of at most 128 elements have the same bytes."""
    a, b = (with_tensor(parent, "more", np.ones((5, 26), "f4") * k) for k, parent in enumerate(parents, 2))
    merge(b, base=a, out=tmp_path / "models/child", method="ties", density=0.5)
    assert verify(tmp_path / "models/child", inputs=True).left_out == 0
    child = with_rules(tmp_path / "models/child", monkeypatch, SUMS_IN_64_LANES - 1)
    result = verify(child, inputs=True)
    merged = [row for row in read_report(child / "merge_report.json").values() if row["action"] == "ties"]
    assert result.ok
    assert result.left_out == sum(row["n_elements"] > 128 for row in merged) > 0
    assert len(result.recomputed) == len(merged) - result.left_out > 0
    assert "not compared, as an older version merged them" in str(result)


def test_others_are(tmp_path, parents, monkeypatch):
    merge(*parents, out=tmp_path / "models/child", method="linear")
    child = with_rules(tmp_path / "models/child", monkeypatch, SUMS_IN_64_LANES - 1)
    assert verify(child, inputs=True, recompute="all").ok


@pytest.mark.parametrize("method", ["della", "dare_ties"])
def test_elements_drawn_at_random_are_not_drawn_again_by_other_rules(tmp_path, parents, monkeypatch, method):
    a, b = parents
    merge(b, base=a, out=tmp_path / "models/child", method=method, density=0.5)
    child = with_rules(tmp_path / "models/child", monkeypatch, WORDS_IN_HALVES - 1)
    assert verify(child, inputs=True).ok
    with pytest.raises(CheckpointError, match="merged by other rules") as caught:
        verify(child, recompute="all")
    assert "differs in: elements that are drawn at random" in str(caught.value)


@pytest.mark.parametrize("rules", [0, RULES + 1])
def test_rules_that_are_not_known_are_refused(format_1, monkeypatch, rules):
    child = with_rules(format_1, monkeypatch, rules)
    assert verify(child).ok
    for options in ({"inputs": True}, {"recompute": 1}):
        with pytest.raises(CheckpointError, match="the model was merged by other rules") as caught:
            verify(child, **options)
        assert f"found: rules {rules}, of fusion_slerp" in str(caught.value)
        assert f"needed: rules {RULES} or older" in str(caught.value)


def test_a_manifest_of_a_format_to_come_is_no_damage(format_1, monkeypatch):
    monkeypatch.setattr("fusion_slerp.output.manifest.FORMAT", 9)
    text = manifest_text({}, make_settings(), {}, {})
    monkeypatch.undo()
    (format_1 / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match="the manifest is newer than this version") as caught:
        verify(format_1)
    assert "found: format 9, written by fusion_slerp" in str(caught.value)


def test_experts_that_older_rules_merged_together_are_not_compared(tmp_path, monkeypatch):
    a, b = (
        write_experts(tmp_path / name, i, "qwen3_moe", LAYOUTS["qwen3_moe"][1]) for i, name in enumerate("ab")
    )
    merge(a, b, out=tmp_path / "child")
    child = with_rules(tmp_path / "child", monkeypatch, 2)
    assert verify(child).ok
    for options in ({"inputs": True}, {"recompute": 1}):
        with pytest.raises(CheckpointError, match=f"rules 2; this version merges by rules {RULES}") as caught:
            verify(child, **options)
        assert "the angles of experts that are stored in one tensor" in str(caught.value)
