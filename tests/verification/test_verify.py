"""`verify` reports every deviation of files, tensors and source models, and nothing else."""

import json
import os
import shlex
import shutil
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from fusion_slerp import CheckpointError, SettingsError, merge, verify
from fusion_slerp.cli.app import app
from fusion_slerp.errors import Problem
from fusion_slerp.output.manifest import manifest_text, read_manifest
from fusion_slerp.settings.merge_settings import make_settings
from fusion_slerp.sources.opening import open_source
from tests.models import SHAPES, contents, write_checkpoint

HEADER = "its header is not what was written"
BYTES = "not the bytes that were written"


@pytest.fixture
def child(tmp_path, parents):
    """A merged model next to its source models, in two files."""
    merge(*parents, out=tmp_path / "models/child", max_shard_size=200)
    return tmp_path / "models/child"


def faults(folder, **options) -> set[tuple[str, str | None, str]]:
    return {(d.file, d.tensor, d.found) for d in verify(folder, **options).deviations}


def flip(file, position, bit=0):
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(data)


# --- the child ------------------------------------------------------------------------------------------


def test_what_was_written_is_fine(child):
    before = contents(child)
    result = verify(child)
    assert result.ok
    assert (result.n_files, result.n_tensors) == (9, 4)
    assert result.nbytes == sum(map(len, before.values())) - len(before["merge_manifest.json"])
    assert result.elapsed_s > 0
    assert str(result) == f"{child}: OK: matches its manifest (9 files, 4 tensors)"
    assert contents(child) == before


def test_every_byte_of_every_file_counts(child):
    tensors = read_manifest(child)["tensors"]
    for name, data in contents(child).items():
        for position in range(0, len(data), 97):
            flip(child / name, position, position % 8)
            inside = {
                tensor
                for tensor, row in tensors.items()
                if row["file"] == name and row["offset"] <= position < row["offset"] + row["nbytes"]
            }
            deviations = verify(child).deviations
            assert {d.file for d in deviations} == {name}
            assert {d.tensor for d in deviations} == (inside or {None})
            flip(child / name, position, position % 8)
    assert verify(child).ok


def test_a_damaged_header_is_distinguished_from_damaged_weights(child):
    (first, second) = sorted(path.name for path in child.glob("*.safetensors"))
    flip(child / first, 20)
    flip(child / second, 4096)
    assert faults(child) == {
        (first, None, HEADER),
        (second, "model.layers.0.mlp.up_proj.weight", BYTES),
    }
    assert str(verify(child)).splitlines() == [
        f"{child}: 2 files deviate (9 files, 4 tensors)",
        f"{first}: {HEADER}",
        f"{second}: model.layers.0.mlp.up_proj.weight: {BYTES}",
    ]


def test_missing_longer_shorter_and_added_files(child):
    (first, second) = sorted(path.name for path in child.glob("*.safetensors"))
    (child / first).unlink()
    nbytes = (child / second).stat().st_size
    os.truncate(child / second, nbytes - 4)
    (child / "config.json").write_bytes((child / "config.json").read_bytes() + b"\n")
    (child / "model.safetensors").write_bytes(b"another model")
    (child / ".gitattributes").write_bytes(b"of git")
    size = (child / "config.json").stat().st_size
    assert faults(child) == {
        (first, None, "missing"),
        (second, None, f"{nbytes - 4} bytes instead of {nbytes}"),
        (second, "model.norm.weight", BYTES),
        ("config.json", None, f"{size} bytes instead of {size - 1}"),
        ("model.safetensors", None, "not in the manifest"),
    }


def test_a_file_that_cannot_be_read(child):
    (child / "config.json").unlink()
    (child / "config.json").mkdir()
    os.mkfifo(child / "pipe")
    assert faults(child) == {
        ("config.json", None, "not a file"),
        ("pipe", None, "not in the manifest"),
    }


def test_no_manifest_and_a_damaged_one(child, parents):
    with pytest.raises(CheckpointError, match=r"no merge_manifest\.json to verify against"):
        verify(parents[0])
    with pytest.raises(CheckpointError, match=r"no merge_manifest\.json to verify against"):
        verify(parents[0] / "nothing")
    flip(child / "merge_manifest.json", 40)
    ((file, tensor, why),) = faults(child)
    assert (file, tensor) == ("merge_manifest.json", None)
    assert why.startswith("damaged: ")


# --- the parents ----------------------------------------------------------------------------------------


def test_parents_beside_the_child_are_found_and_fine(child, parents):
    result = verify(child, inputs=True)
    assert (result.ok, result.measured) == (True, 4)
    assert verify(child, inputs=True, models={"a": parents[0], "b": str(parents[1])}).ok


def test_models_that_were_moved_are_found_where_the_user_says(child, parents, tmp_path):
    parents[1].rename(tmp_path / "moved")
    assert verify(child, inputs=True, models={"b": tmp_path / "moved"}).ok


def test_one_changed_weight_of_a_parent_is_named(child, parents):
    tensors = load_file(parents[1] / "model.safetensors")
    tensors["model.norm.weight"][1] = np.nextafter(tensors["model.norm.weight"][1], np.float32(9))
    save_file(tensors, parents[1] / "model.safetensors", {"format": "pt"})
    ((file, tensor, why),) = faults(child, inputs=True)
    assert (file, tensor) == ("b: weights", "model.norm.weight")
    assert why.startswith("its norm is ")


def test_signs_that_change_no_norm_change_the_angle(child, parents):
    tensors = load_file(parents[0] / "model.safetensors")
    tensors["lm_head.weight"][0] *= -1
    save_file(tensors, parents[0] / "model.safetensors", {"format": "pt"})
    ((file, tensor, why),) = faults(child, inputs=True)
    assert (file, tensor) == ("a and b: weights", "lm_head.weight")
    assert why.startswith("the angle is ")


def test_another_config_and_another_header_are_reported_before_weights_are_read(child, parents, monkeypatch):
    monkeypatch.setattr("fusion_slerp.verification.verify.check_measures", None)
    shutil.rmtree(parents[1])
    write_checkpoint(parents[1], seed=2, config={"rope_theta": 1.0})
    tensors = {name: np.zeros(shape, "float16") for name, shape in SHAPES.items()}
    save_file(tensors, parents[0] / "model.safetensors", {"format": "pt"})
    deviations = faults(child, inputs=True)
    assert {file for file, _, _ in deviations} == {"a: model.safetensors", "b: config.json"}


def test_all_models_that_are_not_there_are_named(child, parents):
    shutil.rmtree(parents[1])
    with pytest.raises(CheckpointError) as caught:
        verify(child, inputs=True)
    assert str(caught.value).splitlines() == [
        "cannot find model b ('b')",
        f"  looked for: {parents[1]}",
        f"  looked for: {Path.cwd() / 'b'}",
        "  in Python: models={'b': 'FOLDER'}",
        f"Fix: fusion_slerp verify {child} --inputs --model b=FOLDER",
    ]
    parents[0].rename(parents[0].with_name("renamed"))
    with pytest.raises(CheckpointError) as caught:
        verify(child, inputs=True, recompute=1)
    (problem,) = caught.value.problems
    assert problem.headline == "cannot find models a ('a'), b ('b')"
    assert dict(problem.fields)["in Python"] == "models={'a': 'FOLDER', 'b': 'FOLDER'}"
    assert problem.fix == (
        f"fusion_slerp verify {child} --inputs --recompute 1 --model a=FOLDER --model b=FOLDER"
    )
    assert verify(child).ok


def test_the_command_that_says_where_models_are_works_when_pasted(child, parents, tmp_path, monkeypatch):
    odd = child.rename(child.with_name("-odd name"))
    for folder in parents:
        folder.rename(tmp_path / f"moved {folder.name}")
    monkeypatch.chdir(odd.parent)
    with pytest.raises(CheckpointError, match="cannot find model b") as caught:
        verify(odd.name, inputs=True, models={"a": tmp_path / "moved a"})
    words = shlex.split(caught.value.problems[0].fix.replace("b=FOLDER", f"'b={tmp_path}/moved b'"))
    assert words[0] == "fusion_slerp"
    assert CliRunner().invoke(app, words[1:]).exit_code == 0


def test_models_in_the_current_folder_are_found(child, parents, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    for folder in parents:
        folder.rename(tmp_path / "here" / folder.name)
    monkeypatch.chdir(tmp_path / "here")
    assert verify(child, inputs=True).ok


def test_of_two_folders_of_one_name_the_one_that_was_merged_is_taken(child, parents, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    parents[0].rename(tmp_path / "here/a")
    write_checkpoint(parents[0], seed=1, config={"rope_theta": 1.0})
    (tmp_path / "here/b").mkdir()  # no model
    monkeypatch.chdir(tmp_path / "here")
    assert verify(child, inputs=True).ok
    shutil.rmtree(tmp_path / "here/a")
    assert {file for file, _, _ in faults(child, inputs=True)} == {"a: config.json"}


def test_a_recipe_says_where_models_are(child, parents, tmp_path, monkeypatch):
    for folder in parents:
        folder.rename(tmp_path / f"moved_{folder.name}")
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("""
slices: [{sources: [{model: ./moved_a, layer_range: [0, 1]}, {model: ./moved_b, layer_range: [0, 1]}]}]
merge_method: slerp
base_model: ./moved_a
parameters: {t: 0.5}
dtype: float32
""")
    monkeypatch.chdir(tmp_path)
    assert verify(child, inputs=True, models="recipe.yml").ok
    assert verify(child, inputs=True, models=recipe).ok


@pytest.fixture
def of_hub(child, tmp_path, monkeypatch):
    """A child whose manifest says that model b is of the hub, which is down; its cache is empty."""

    def local_only(source, follow_links):
        if str(source).startswith("owner/"):
            fields = (("model", source), ("hub", "no network"))
            raise Problem(CheckpointError, "not available", fields, "check the network").error()
        return open_source(source, follow_links)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fusion_slerp.verification.parents.open_source", local_only)
    manifest = read_manifest(child)
    manifest["parents"]["b"] |= {"model": "owner/b", "revision": "0" * 40}
    settings = make_settings(**manifest["settings"])
    text = manifest_text(manifest["parents"], settings, manifest["files"], manifest["tensors"])
    (child / "merge_manifest.json").write_text(text)
    return child


def test_a_model_of_the_hub_is_found_in_its_cache_without_the_hub(of_hub, parents, tmp_path):
    snapshot = tmp_path / "cache/models--owner--b/snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    parents[1].rename(snapshot)
    assert verify(of_hub, inputs=True).ok


def test_a_copy_of_a_model_of_the_hub_counts_if_it_is_that(of_hub, parents):
    assert verify(of_hub, inputs=True).ok
    shutil.rmtree(parents[1])
    write_checkpoint(parents[1], seed=2, config={"rope_theta": 1.0})
    with pytest.raises(CheckpointError, match="cannot find model b"):
        verify(of_hub, inputs=True)


def test_models_of_the_hub_and_local_ones_that_are_missing_are_named_together(of_hub, parents):
    for folder in parents:
        shutil.rmtree(folder)
    with pytest.raises(CheckpointError) as caught:
        verify(of_hub, inputs=True)
    (problem,) = caught.value.problems
    assert problem.headline == "cannot find models a ('a'), b ('owner/b')"
    assert ("looked for", f"owner/b@{'0' * 40} on the Hub (no network)") in problem.fields
    assert problem.fix.endswith(" --inputs --model a=FOLDER --model b=FOLDER")


def test_a_label_that_was_not_merged(child, parents):
    with pytest.raises(SettingsError, match=r"no such source model\n  found: 'c'.*\n  needed: a, b"):
        verify(child, inputs=True, models={"c": parents[1]})


def test_models_that_were_in_memory_cannot_be_compared(tmp_path):
    text = manifest_text({"a": {"model": "x"}, "b": {"model": "y"}}, make_settings(), {}, {})
    (tmp_path / "merge_manifest.json").write_text(text)
    assert verify(tmp_path).ok
    with pytest.raises(CheckpointError, match="2 problems") as caught:
        verify(tmp_path, inputs=True)
    assert "a model that was in memory" in str(caught.value)


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_matrices_merged_by_rows_and_columns(tmp_path, parents, granularity):
    merge(*parents, out=tmp_path / "models/child", granularity=granularity)
    assert verify(tmp_path / "models/child", inputs=True, recompute="all").ok


def test_copied_tensors_are_compared_with_their_parents(tmp_path, parents):
    merge(*parents, out=tmp_path / "models/child", t=[{"filter": "norm", "value": 1}, {"value": 0.5}])
    result = verify(tmp_path / "models/child", inputs=True)
    assert (result.ok, result.measured, result.recomputed) == (True, 3, ("model.norm.weight",))
    tensors = load_file(parents[1] / "model.safetensors")
    tensors["model.norm.weight"][:] *= -1
    save_file(tensors, parents[1] / "model.safetensors", {"format": "pt"})
    ((_, tensor, why),) = faults(tmp_path / "models/child", inputs=True)
    assert (tensor, why) == ("model.norm.weight", "not what its source models make")


def test_three_models_merged_without_measures_are_compared_bit_by_bit(tmp_path, parents):
    c = write_checkpoint(tmp_path / "models/c", seed=3)
    weight = {"a": 0.5, "b": 0.25, "c": [{"filter": "norm", "value": 0}, {"value": 0.25}]}
    merge(*parents, c, out=tmp_path / "models/child", method="linear", weight=weight)
    result = verify(tmp_path / "models/child", inputs=True)
    assert (result.ok, result.measured, sorted(result.recomputed)) == (True, 0, sorted(SHAPES))
    tensors = load_file(c / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1
    tensors["model.norm.weight"][0] += 1  # of no weight there
    save_file(tensors, c / "model.safetensors", {"format": "pt"})
    assert {each[1:] for each in faults(tmp_path / "models/child", inputs=True)} == {
        ("lm_head.weight", "not what its source models make")
    }


def test_rows_that_only_one_parent_has_count_too(tmp_path):
    tokens = ("<unk>", "to", "be", "or", "not", "##s")
    a = write_checkpoint(tmp_path / "models/a", seed=1)
    tensors = load_file(a / "model.safetensors") | {
        name: np.random.default_rng(2).standard_normal((9, 4), np.float32)
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    }
    b = write_checkpoint(
        tmp_path / "models/b", tensors=tensors, tokens=(*tokens, "x", "y", "z"), config={"vocab_size": 9}
    )
    merge(a, b, out=tmp_path / "models/child", t=0.3)
    assert verify(tmp_path / "models/child", inputs=True).ok
    tensors["lm_head.weight"][8, 0] += 1  # of a token that a does not have
    save_file(tensors, b / "model.safetensors", {"format": "pt"})
    assert {each[1:] for each in faults(tmp_path / "models/child", inputs=True)} == {
        ("lm_head.weight", "not what its source models make")
    }


def test_a_tokenizers_folder_beside_the_child_is_found(tmp_path, parents):
    other = write_checkpoint(tmp_path / "models/c")
    merge(*parents, out=tmp_path / "models/child", tokenizer=str(other))
    assert verify(tmp_path / "models/child", recompute="all").ok


# --- recomputing ----------------------------------------------------------------------------------------


def test_all_are_merged_again_and_compared(child):
    result = verify(child, recompute="all")
    assert result.ok
    assert sorted(result.recomputed) == sorted(SHAPES)


def test_a_sample_is_another_one_each_time(child):
    samples = {verify(child, recompute=2).recomputed for _ in range(40)}
    assert {len(each) for each in samples} == {2}
    assert len(samples) > 1
    assert len(verify(child, recompute=99).recomputed) == 4


def test_a_child_with_a_manifest_to_match_does_not_pass(child, tmp_path, parents):
    """Somebody changes a weight and writes a manifest that says so."""
    tampered = tmp_path / "models/tampered"
    other = write_checkpoint(tmp_path / "models/other", seed=2)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][2] += 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    merge(parents[0], other, out=tampered, max_shard_size=200)
    assert verify(tampered).ok
    name = "model-00002-of-00002.safetensors"
    ((file, tensor, why),) = {
        each for each in faults(tampered, recompute="all", models={"b": parents[1]}) if each[1] is not None
    }
    assert (file, tensor, why) == (name, "model.norm.weight", "not what its source models make")


@pytest.mark.parametrize("count", ["some", -1, 1.5, True])
def test_a_count_that_is_none(child, count):
    with pytest.raises(SettingsError, match="invalid recompute"):
        verify(child, recompute=count)


def test_progress_is_shown_if_asked_for(child, capsys):
    verify(child, show_pbar=True)
    assert "verifying: 100%" in capsys.readouterr().err


def test_a_report_that_was_emptied_is_a_deviation_and_no_crash(child):
    (child / "merge_report.json").write_text(json.dumps({"tensors": []}))
    deviations = faults(child, inputs=True)
    assert ("merge_report.json" in {file for file, _, _ in deviations}) is True
    assert {tensor for _, tensor, _ in deviations} >= set(SHAPES)
