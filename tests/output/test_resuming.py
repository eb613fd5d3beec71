"""An interrupted merge resumes from its finished files; a different one does not replace it."""

import itertools
import json
import os

import pytest

from fusion_slerp import OutputError, merge
from fusion_slerp.output import staging as staging_module
from fusion_slerp.output.staging import staging
from tests.models import contents, names_in, partial_folder


def staged(folder):
    """A staging folder for a merge of its own."""
    return staging(folder / "child", {"files": {}}, "xxh3_128")


# --- resuming -------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path, parents, monkeypatch):
    """A merge of four files that stopped when three were finished; and what it would have made."""
    merge(*parents, out=tmp_path / "other/child", max_shard_size=100)
    real, calls, finished = staging_module.Staging.add, itertools.count(), []

    def add(self, file):
        if next(calls) == 3:
            raise OSError(5, "Input/output error")
        finished.append(file.name)
        real(self, file)

    monkeypatch.setattr(staging_module.Staging, "add", add)
    with pytest.raises(OutputError, match=r"kept: 3 of 4 weight files"):
        merge(*parents, out=tmp_path / "child", max_shard_size=100, threads=1)
    monkeypatch.undo()
    return finished, contents(tmp_path / "other/child")


def test_the_same_call_resumes_and_makes_the_same_bytes(tmp_path, parents, interrupted):
    finished, expected = interrupted
    before = {name: (tmp_path / ".child.partial/files" / name).stat().st_ino for name in finished}
    result = merge(*parents, out=tmp_path / "child", max_shard_size=100)
    assert result.n_resumed == 3
    assert len(result.report) == 4
    assert str(result).endswith(", 3 of 4 files from an interrupted run")
    assert contents(tmp_path / "child") == expected
    assert {name: (tmp_path / "child" / name).stat().st_ino for name in finished} == before
    assert names_in(tmp_path) == ["child", "models", "other"]


@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone", "a link"])
def test_a_finished_file_that_is_no_longer_what_it_was_is_made_again(tmp_path, parents, interrupted, damage):
    finished, expected = interrupted
    file = tmp_path / ".child.partial/files" / finished[1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if damage == "flipped":
        file.write_bytes(data)
    elif damage == "shorter":
        file.write_bytes(data[:-1])
    else:
        file.rename(tmp_path / "moved")
        if damage == "a link":
            file.symlink_to(tmp_path / "moved")
    assert merge(*parents, out=tmp_path / "child", max_shard_size=100).n_resumed == 2
    assert contents(tmp_path / "child") == expected
    assert not any(path.is_symlink() for path in (tmp_path / "child").iterdir())


def test_a_journal_line_that_was_cut_off_counts_as_not_written(tmp_path, parents, interrupted):
    _, expected = interrupted
    journal = tmp_path / ".child.partial/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])
    assert merge(*parents, out=tmp_path / "child", max_shard_size=100).n_resumed == 2
    assert contents(tmp_path / "child") == expected


def test_a_journal_cannot_name_files_elsewhere(tmp_path, parents, interrupted):
    _, expected = interrupted
    journal = tmp_path / ".child.partial/journal.jsonl"
    first, second, *rest = journal.read_text().splitlines()
    outside = {**json.loads(second), "file": "../../models/a/config.json"}
    journal.write_text("\n".join([first, json.dumps(outside), *rest, ""]))
    assert merge(*parents, out=tmp_path / "child", max_shard_size=100).n_resumed == 2
    assert contents(tmp_path / "child") == expected


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"t": 0.3}, "settings.t: 0.5 before, 0.3 now"),
        ({"dtype": "float16"}, "settings.dtype: None before, 'float16' now"),
        ({"checksum": "sha256"}, "settings.checksum: 'xxh3_128' before, 'sha256' now"),
    ],
)
def test_another_merge_does_not_take_the_place_of_an_unfinished_one(
    tmp_path, parents, interrupted, change, difference
):
    kept = contents(tmp_path / ".child.partial")
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=tmp_path / "child", **{"max_shard_size": 100, **change})
    lines = str(caught.value).splitlines()
    assert lines[0] == "a different unfinished merge is in the way"
    assert lines[2] == f"  unfinished: 3 finished weight files in {tmp_path / '.child.partial'}"
    assert difference in lines[3]
    assert lines[-1].endswith(f"fusion_slerp clean {tmp_path / 'child'}")
    assert contents(tmp_path / ".child.partial") == kept


def test_a_parent_that_was_written_to_is_another_parent(tmp_path, parents, interrupted):
    file = parents[1] / "model.safetensors"
    os.utime(file, ns=(0, 0))
    with pytest.raises(OutputError, match=r"differs in: places\.b\.written\.model\.safetensors: \d+ before"):
        merge(*parents, out=tmp_path / "child", max_shard_size=100)


def test_a_parents_tokenizer_decides_on_rows_and_must_be_the_same(tmp_path, parents, interrupted):
    file = parents[1] / "tokenizer.json"
    file.write_text(file.read_text().replace("to", "ot"))
    with pytest.raises(OutputError, match=r"parents\.b\.beside\.tokenizer\.json\.sha256: '"):
        merge(*parents, out=tmp_path / "child", max_shard_size=100, tokenizer="a")


def test_an_earlier_output_that_waits_for_its_name_is_not_forgotten(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", t=1)
    (tmp_path / "child").rename(partial_folder(tmp_path / "child") / "replaced")
    with pytest.raises(OutputError, match=r"the output exists\n.*\n  found: an earlier output"):
        merge(*parents, out=tmp_path / "child")
    assert names_in(tmp_path) == [".child.partial", "models"]
    merge(*parents, out=tmp_path / "child", overwrite=True)
    assert names_in(tmp_path) == ["child", "models"]


def test_settings_that_change_no_byte_may_differ(tmp_path, parents, interrupted):
    _, expected = interrupted
    merge(
        *parents, out=tmp_path / "child", max_shard_size=100, threads=1, direct_io="off", memory_budget="1GB"
    )
    assert contents(tmp_path / "child") == expected


def test_room_is_needed_only_for_what_is_missing(tmp_path, parents, interrupted, monkeypatch):
    needed = sum(path.stat().st_size for path in (tmp_path / "other/child").iterdir())
    kept = sum(path.stat().st_size for path in (tmp_path / ".child.partial/files").iterdir())
    free = type("Usage", (), {"free": needed - kept + (1 << 20)})()
    monkeypatch.setattr("fusion_slerp.output.target.shutil.disk_usage", lambda folder: free)
    assert merge(*parents, out=tmp_path / "child", max_shard_size=100).n_resumed == 3


def test_what_no_file_was_finished_of_is_no_obstacle(tmp_path, parents, interrupted):
    journal = tmp_path / ".child.partial/journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    assert merge(*parents, out=tmp_path / "child", t=0.3).n_resumed == 0
    assert names_in(tmp_path) == ["child", "models", "other"]


def test_what_was_left_of_a_published_merge_is_no_obstacle(tmp_path, parents, monkeypatch):
    """A death after the exchange, before the earlier output is removed."""
    merge(*parents, out=tmp_path / "child", t=1)
    monkeypatch.setattr("fusion_slerp.output.staging.shutil.rmtree", lambda *args, **kwargs: None)
    merge(*parents, out=tmp_path / "child", t=0, overwrite=True)
    monkeypatch.undo()
    assert ".child.partial" in names_in(tmp_path)
    merge(*parents, out=tmp_path / "child", t=0.3, overwrite=True)
    assert names_in(tmp_path) == ["child", "models"]


# --- two processes --------------------------------------------------------------------------------------


def test_a_target_that_another_process_made_meanwhile_is_left_alone(tmp_path):
    def second_wins() -> None:
        with staged(tmp_path) as mine:
            (tmp_path / "child").mkdir()
            mine.publish("", overwrite=False)

    with pytest.raises(OutputError, match="merged model could not be written") as caught:
        second_wins()
    assert "File exists" in str(caught.value)
    assert names_in(tmp_path) == ["child"]


def test_the_second_of_two_gets_an_error_and_the_first_its_child(tmp_path, parents):
    with staged(tmp_path) as mine:
        for attempt in (
            lambda: staged(tmp_path).__enter__(),
            lambda: merge(*parents, out=tmp_path / "child"),
        ):
            with pytest.raises(OutputError, match="another process is merging to this folder") as caught:
                attempt()
            assert f"by: process {os.getpid()} on " in str(caught.value)
        (mine.files / "config.json").write_bytes(b"first")
        mine.publish("", overwrite=False)
    assert contents(tmp_path / "child") == {"config.json": b"first"}
    assert names_in(tmp_path) == ["child", "models"]
