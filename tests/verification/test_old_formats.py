"""Models of older formats and of other rules: verified as far as their bytes are certain.

tests/samples verifies a model of each format, and its source models, in every way.
"""

import shutil
from pathlib import Path

import pytest

from fusion_slerp import CheckpointError, SettingsError, merge, verify
from fusion_slerp.output.manifest import manifest_text, read_manifest
from fusion_slerp.planning.rules import RULES, SUMS_IN_64_LANES, WORDS_IN_HALVES
from fusion_slerp.settings.merge_settings import make_settings
from tests.expert_layouts import LAYOUTS, write_experts
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
    merge(*parents, out=tmp_path / "models/child", granularity=granularity)
    child = with_rules(tmp_path / "models/child", monkeypatch, SUMS_IN_64_LANES - 1)
    assert verify(child, inputs=True).ok
    with pytest.raises(CheckpointError, match="merged by other rules") as caught:
        verify(child, recompute="all")
    assert "differs in: the last digits of sums over elements" in str(caught.value)


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
