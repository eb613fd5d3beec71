"""What overwriting may remove: a merge of ours, or a model and nothing else."""

import os
from pathlib import Path

import pytest

from fusion_slerp import OutputError, merge
from fusion_slerp.output.replaceable import in_the_way
from fusion_slerp.output.target import check_target
from tests.models import contents, names_in, write_checkpoint


def add(folder: Path, *names: str) -> Path:
    """Makes files with something in them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    return folder


@pytest.fixture
def model(tmp_path):
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def merged(tmp_path, parents):
    merge(*parents, out=tmp_path / "child")
    return tmp_path / "child"


def test_nothing_is_in_the_way_in_a_merge_or_a_model(merged, model, tmp_path):
    assert in_the_way(merged) == in_the_way(model) == []
    assert in_the_way(write_checkpoint(tmp_path / "sharded", n_shards=3)) == []


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "README.md",
        "LICENSE.txt",
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
        ".gitattributes",
        ".cache/huggingface/download/config.json.metadata",
    ],
)
def test_files_of_a_model_may_go(model, name):
    assert in_the_way(add(model, name)) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("thesis.tex", "thesis.tex"),
        ("optimizer.pt", "optimizer.pt"),
        ("trainer_state.json", "trainer_state.json"),
        ("training_args.bin", "training_args.bin"),
        ("checkpoint-500/optimizer.pt", "checkpoint-500/"),
        ("checkpoint-500/model.safetensors", "checkpoint-500/"),
        ("old/config.json", "old/"),
        (".git/HEAD", ".git/"),
        ("additional_chat_templates/notes.txt", "additional_chat_templates/"),
        (".cache/mine", ".cache/"),
        ("train.py", "train.py"),
        ("model.gguf", "model.gguf"),
    ],
)
def test_everything_else_is_named_in_a_model_and_in_a_merge(model, merged, name, shown):
    for folder in (model, merged):
        assert in_the_way(add(folder, name)) == [shown]


def test_what_the_manifest_lists_may_go_whatever_its_name(tmp_path, parents):
    (parents[0] / "LICENSE-of-ours.xyz").write_text("free")
    merge(*parents, out=tmp_path / "child")
    assert "LICENSE-of-ours.xyz" in names_in(tmp_path / "child")
    for name in ("config.json", "model.safetensors"):  # a merge that was spoiled is one still
        (tmp_path / "child" / name).unlink()
    assert in_the_way(tmp_path / "child") == []


@pytest.mark.parametrize(
    "names", [["config.json"], ["config.json", "README.md"], ["README.md", "LICENSE"], ["model.safetensors"]]
)
def test_names_of_a_model_alone_make_none(tmp_path, names):
    """A project may have a config.json, too."""
    assert in_the_way(add(tmp_path / "project", *names)) == sorted(names)


def test_a_manifest_that_is_not_ours_proves_nothing(tmp_path, merged):
    names = ["config.json", "merge_manifest.json"]
    assert in_the_way(add(tmp_path / "project", *names)) == names
    manifest = merged / "merge_manifest.json"
    manifest.write_text(manifest.read_text().replace("README.md", "thesis.md"))
    assert in_the_way(add(merged, "thesis.md")) == ["thesis.md"]


def test_empty_folders_count_as_nothing(tmp_path, model):
    (tmp_path / "empty/deep").mkdir(parents=True)
    (model / "notes").mkdir()
    assert in_the_way(tmp_path / "empty") == in_the_way(model) == []


def test_the_pictures_of_cards_are_known_and_no_others(model):
    assert in_the_way(add(model, "images/angle.svg", "images/t.svg", "images/weight.svg")) == []
    assert in_the_way(add(model, "images/cat.svg")) == ["images/"]


def test_links_are_files_and_are_not_followed(tmp_path, model):
    add(tmp_path / "elsewhere", "data")
    (model / "data").symlink_to(tmp_path / "elsewhere")
    (model / "sub").mkdir()
    (model / "sub/data").symlink_to(tmp_path / "elsewhere")
    assert in_the_way(model) == ["data", "sub/"]


# --- as a merge says it ----------------------------------------------------------------------------------


def test_the_error_names_what_is_in_the_way_and_any_replaces_it(tmp_path, parents, model):
    add(model, ".git/HEAD", "checkpoint-500/optimizer.pt", *(f"note-{i}" for i in range(9)))
    before = contents(model)
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=model, overwrite=True)
    assert str(caught.value).splitlines() == [
        "overwrite replaces only a model folder",
        f"  out: {model}",
        "  in the way: .git/, checkpoint-500/, note-0, note-1, note-2, ... and 6 more",
        "Fix: move away what you need, or choose another output folder; or use overwrite='any' "
        "to replace the folder with everything in it",
    ]
    assert contents(model) == before
    merge(*parents, out=model, overwrite="any")
    assert "merge_manifest.json" in names_in(model)
    assert not (model / ".git").exists()
    assert names_in(tmp_path) == ["model", "models"]


@pytest.mark.parametrize("overwrite", [True, "any"])
def test_nothing_is_replaced_through_a_link(tmp_path, parents, merged, overwrite):
    (tmp_path / "link").symlink_to(merged)
    before = contents(merged)
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=tmp_path / "link", t=1, overwrite=overwrite)
    lines = str(caught.value).splitlines()
    assert lines[0] == "overwrite replaces nothing through a link"
    assert lines[2] == f"  found: a link to {merged}"
    assert contents(merged) == before


def test_what_comes_there_during_the_merge_is_not_replaced(tmp_path, parents, merged, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        add(merged, "notes")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="in the way: notes\n  kept: 1 of 1 weight files"):
        merge(*parents, out=merged, t=1, overwrite=True)
    assert (merged / "notes").read_text() == "precious"
    monkeypatch.undo()
    (merged / "notes").unlink()
    assert merge(*parents, out=merged, t=1, overwrite=True).n_resumed == 1


def test_a_folder_that_cannot_be_read_is_not_replaced(tmp_path, model, monkeypatch):
    def closed(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("fusion_slerp.output.replaceable.os.scandir", closed)
    (problem,) = check_target(model, True)
    assert problem.headline == "cannot look into the output folder"
    assert dict(problem.fields)["found"] == f"{model}: Permission denied"
