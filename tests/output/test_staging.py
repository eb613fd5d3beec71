"""How the merged model appears: at once or not at all, and what is kept next to it when a merge fails."""

import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fusion_slerp.merging
from fusion_slerp import CheckpointError, OutputError, merge
from fusion_slerp.output import staging as staging_module
from fusion_slerp.output.staging import staging
from tests.models import contents, names_in, partial_folder, tiny_tensors

NAMES = (
    "README.md config.json merge_manifest.json merge_report.json model.safetensors tokenizer.json "
    "tokenizer_config.json"
).split()


def staged(folder: Path, name: str = "child"):
    """A staging folder for a merge of its own."""
    return staging(folder / name, {"files": {}}, "xxh3_128")


# --- success --------------------------------------------------------------------------------------------


def test_an_old_output_is_replaced_as_a_whole(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", max_shard_size=100)
    (tmp_path / "child/pytorch_model.bin").write_bytes(b"stale")
    (tmp_path / "child/notes").mkdir()
    merge(*parents, out=tmp_path / "child", t=1, overwrite=True)
    assert names_in(tmp_path / "child") == NAMES
    assert names_in(tmp_path) == ["child", "models"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_so_it_is_where_the_system_has_no_exchange(tmp_path, parents, monkeypatch, can_exchange):
    merge(*parents, out=tmp_path / "child", t=1)
    seen = []

    def exchange(one, other):
        seen.append(names_in(other))
        return can_exchange and real(one, other)

    real = staging_module.exchange
    monkeypatch.setattr(staging_module, "exchange", exchange)
    merge(*parents, out=tmp_path / "child", t=0, overwrite=True)
    assert seen == [NAMES]
    merged, a = (load_file(f / "model.safetensors") for f in (tmp_path / "child", parents[0]))
    assert all(torch.equal(merged[name], a[name]) for name in a)
    assert names_in(tmp_path) == ["child", "models"]


def test_an_empty_folder_may_be_overwritten(tmp_path, parents):
    (tmp_path / "child").mkdir()
    with pytest.raises(OutputError, match="the output exists"):
        merge(*parents, out=tmp_path / "child")
    merge(*parents, out=tmp_path / "child", overwrite=True)
    assert "model.safetensors" in names_in(tmp_path / "child")


def test_nothing_appears_before_all_is_written(tmp_path, parents, monkeypatch):
    seen = []
    real = fusion_slerp.merging.write_manifest

    def looking(*arguments):
        seen.append((names_in(tmp_path), names_in(tmp_path / ".child.partial")))
        return real(*arguments)

    monkeypatch.setattr(fusion_slerp.merging, "write_manifest", looking)
    merge(*parents, out=tmp_path / "child")
    assert seen == [([".child.partial", "models"], ["files", "journal.jsonl", "lock"])]
    assert names_in(tmp_path) == ["child", "models"]


def test_an_old_output_that_cannot_be_removed_is_no_failure(tmp_path, parents, monkeypatch):
    """The merged model is there by then; an error would say that nothing was written."""
    merge(*parents, out=tmp_path / "child", t=1)

    def stubborn(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fusion_slerp.output.staging.shutil.rmtree", stubborn)
    merge(*parents, out=tmp_path / "child", t=0, overwrite=True)
    expected = load_file(parents[0] / "model.safetensors")
    merged = load_file(tmp_path / "child/model.safetensors")
    assert all(torch.equal(x, expected[name]) for name, x in merged.items())


def test_a_file_system_that_cannot_sync_folders_is_no_failure(tmp_path, parents, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr("fusion_slerp.output.staging.os.fsync", fsync)
    merge(*parents, out=tmp_path / "child")
    assert "model.safetensors" in names_in(tmp_path / "child")


def test_a_child_whose_name_may_not_be_on_the_disk_yet_is_a_warning(tmp_path, parents, monkeypatch, caplog):
    real = staging_module.sync_folder

    def failing(folder):
        if folder == tmp_path:
            raise OSError(5, "Input/output error")
        real(folder)

    monkeypatch.setattr(staging_module, "sync_folder", failing)
    merge(*parents, out=tmp_path / "child")
    assert "child may not be on disk yet: Input/output error" in caplog.text
    assert names_in(tmp_path) == ["child", "models"]


# --- failure before any weight file is finished ---------------------------------------------------------


def no_room(*arguments):
    raise OSError(28, "No space left on device")


EARLY = {
    "journal": "fusion_slerp.output.journal.Journal.begin",
    "reserving": "fusion_slerp.output.output_file.reserve",
    "weights": "fusion_slerp.output.output_file.write_at",
}


@pytest.mark.parametrize("where", EARLY)
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_before_anything_is_finished_leaves_nothing(
    tmp_path, parents, monkeypatch, where, existing
):
    if existing:
        merge(*parents, out=tmp_path / "deep/child", t=1)
    before = contents(tmp_path)
    monkeypatch.setattr(EARLY[where], no_room)
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=tmp_path / "deep/child", overwrite=existing)
    lines = str(caught.value).splitlines()
    assert "  found: No space left on device" in lines
    assert "  written: nothing: the unfinished folder is removed" in lines
    assert "None" not in str(caught.value)
    assert lines[-1] == "Fix: free space or choose another output folder, then run the same call again"
    assert contents(tmp_path) == before
    assert names_in(tmp_path) == (["deep", "models"] if existing else ["models"])


def test_folders_made_for_the_output_go_but_no_others(tmp_path, parents, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("fusion_slerp.output.output_file.write_at", no_room)
    with pytest.raises(OutputError):
        merge(*parents, out=tmp_path / "mine/x/y/child")
    assert names_in(tmp_path) == ["mine", "models"]
    assert names_in(tmp_path / "mine") == []


def test_weights_found_bad_leave_nothing_even_after_a_finished_file(tmp_path, parents):
    """The same call could not succeed."""
    tensors = {name: torch.tensor(value) for name, value in tiny_tensors(2).items()}
    tensors["model.norm.weight"][2] = torch.nan
    save_file(tensors, parents[1] / "model.safetensors")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="NaN or infinity in a weight"):
        merge(*parents, out=tmp_path / "child", max_shard_size=100, threads=1)
    assert contents(tmp_path) == before
    assert names_in(tmp_path) == ["models"]


def test_a_link_in_the_place_of_the_staging_folder_is_not_followed(tmp_path, parents):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_bytes(b"mine")
    (tmp_path / ".child.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"not made by a merge\n(.*\n)*  found: a link to .*/precious\n"):
        merge(*parents, out=tmp_path / "child")
    (tmp_path / ".child.partial").unlink()
    (partial_folder(tmp_path / "child") / "files").symlink_to(tmp_path / "precious")
    merge(*parents, out=tmp_path / "child")
    assert contents(tmp_path / "precious") == {"file": b"mine"}
    assert names_in(tmp_path) == ["child", "models", "precious"]


# --- failure after it: the folder stays, and the same call resumes --------------------------------------

LATE = {
    "side files": "fusion_slerp.output.side_files.shutil.copyfile",
    "publishing": "fusion_slerp.output.staging.rename_new",
    "replacing": "fusion_slerp.output.staging.exchange",
}


@pytest.mark.parametrize(
    ("where", "existing"),
    [("side files", False), ("side files", True), ("publishing", False), ("replacing", True)],
)
def test_a_full_disk_after_a_finished_file(tmp_path, parents, monkeypatch, where, existing):
    if existing:
        merge(*parents, out=tmp_path / "child", t=1)
    before = contents(tmp_path)
    monkeypatch.setattr(LATE[where], no_room)
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=tmp_path / "child", overwrite=existing)
    lines = str(caught.value).splitlines()
    assert f"  kept: 1 of 1 weight files, in {tmp_path / '.child.partial'}" in lines
    assert lines[-1] == (
        "Fix: free space or choose another output folder, then run the same call again, which resumes there; "
        f"or remove it: fusion_slerp clean {tmp_path / 'child'}"
    )
    now = {name: data for name, data in contents(tmp_path).items() if not name.startswith(".child.partial")}
    assert now == before
    monkeypatch.undo()
    result = merge(*parents, out=tmp_path / "child", overwrite=existing)
    assert result.n_resumed == 1
    assert names_in(tmp_path) == ["child", "models"]
    assert names_in(tmp_path / "child") == NAMES


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("where", ["weights", "manifest", "publishing"])
def test_an_interrupt_leaves_the_target_as_it_was(tmp_path, parents, monkeypatch, where, existing):
    if existing:
        merge(*parents, out=tmp_path / "child", t=1)
    before = contents(tmp_path)
    places = {
        "weights": "fusion_slerp.output.shard_writer.ShardWriter.write",
        "manifest": "fusion_slerp.merging.write_manifest",
        "publishing": f"fusion_slerp.output.staging.{'exchange' if existing else 'rename_new'}",
    }

    def interrupt(*arguments):
        raise KeyboardInterrupt

    threads = threading.active_count()
    monkeypatch.setattr(places[where], interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        merge(*parents, out=tmp_path / "child", overwrite=existing)
    monkeypatch.undo()
    left = names_in(tmp_path / ".child.partial") if where != "weights" else []
    assert left == ([] if where == "weights" else ["files", "journal.jsonl", "lock"])
    notes = "\n".join(getattr(caught.value, "__notes__", ()))
    assert ("fusion_slerp clean" in notes) == (where != "weights")
    now = {name: data for name, data in contents(tmp_path).items() if not name.startswith(".child.partial")}
    assert now == before
    assert threading.active_count() == threads


def test_an_earlier_output_comes_back_if_the_second_rename_fails(tmp_path, parents, monkeypatch):
    merge(*parents, out=tmp_path / "child", t=1)
    before = contents(tmp_path / "child")
    real = Path.rename

    def fail(source, target):
        if source.name == "files":
            no_room()
        return real(source, target)

    monkeypatch.setattr(staging_module, "exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="No space left"):
        merge(*parents, out=tmp_path / "child", overwrite=True)
    assert contents(tmp_path / "child") == before


def test_an_earlier_output_comes_back_after_a_death_between_both_renames(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", t=1)
    before = contents(tmp_path / "child")
    (tmp_path / "child").rename(partial_folder(tmp_path / "child") / "replaced")
    with staged(tmp_path):
        assert contents(tmp_path / "child") == before
    assert contents(tmp_path / "child") == before
    assert names_in(tmp_path) == ["child", "models"]
