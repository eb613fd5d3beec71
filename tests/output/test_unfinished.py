"""Leftovers of an interrupted merge: described, compared with another merge, removed."""

import hashlib
import itertools
import json
import os
import shutil

import pytest

import fusion_slerp
from fusion_slerp import OutputError, __version__, merge
from fusion_slerp.output.journal import FORMAT
from fusion_slerp.output.lock import FolderLock
from fusion_slerp.output.staging import Staging, staging
from fusion_slerp.output.unfinished import check_unfinished, differences, find_unfinished
from tests.models import contents, names_in
from tests.samples.merges import FORMAT1


@pytest.fixture
def interrupted(tmp_path, parents, monkeypatch):
    """A merge of four files that stopped after the first."""
    real, calls = Staging.add, itertools.count()

    def add(self, file):
        if next(calls):
            raise OSError(5, "Input/output error")
        real(self, file)

    monkeypatch.setattr(Staging, "add", add)
    with pytest.raises(OutputError):
        merge(*parents, out=tmp_path / "child", max_shard_size=100, threads=1)
    monkeypatch.undo()
    return tmp_path / "child"


def test_it_is_described(interrupted):
    left = find_unfinished(interrupted)
    assert left is not None
    assert str(left) == f"1 of 4 weight files, in {interrupted.with_name('.child.partial')}"
    assert len(left.finished) == 1
    assert left.nbytes > 4096


def test_clean_removes_it_and_nothing_else(interrupted, tmp_path):
    removed = fusion_slerp.clean(interrupted)
    assert removed is not None
    assert removed.n_files == 4
    assert names_in(tmp_path) == ["models"]
    assert fusion_slerp.clean(interrupted) is None


def test_clean_gives_an_earlier_output_its_name_back(interrupted, tmp_path):
    (tmp_path / ".child.partial/replaced").mkdir()
    (tmp_path / ".child.partial/replaced/config.json").write_bytes(b"earlier")
    fusion_slerp.clean(str(interrupted))
    assert contents(interrupted) == {"config.json": b"earlier"}
    assert names_in(tmp_path) == ["child", "models"]


def test_clean_leaves_a_merge_under_way_alone(interrupted, tmp_path):
    lock = FolderLock(tmp_path / ".child.partial/lock")
    lock.acquire()
    with pytest.raises(OutputError, match="another process is merging") as caught:
        fusion_slerp.clean(interrupted)
    assert f"process {os.getpid()} on" in str(caught.value)
    lock.release()
    assert ".child.partial" in names_in(tmp_path)


def test_clean_that_fails_says_so(interrupted, monkeypatch):
    def stubborn(path, ignore_errors):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fusion_slerp.output.partial_folder.shutil.rmtree", stubborn)
    with pytest.raises(OutputError, match=r"cannot be removed\n  folder: .*\n  found: Permission denied"):
        fusion_slerp.clean(interrupted)


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"[]\n", b'{"journal": 99, "identity": {}}\n', b"\0" * 4096]
)
def test_a_journal_that_says_nothing(interrupted, content, parents):
    (interrupted.with_name(".child.partial") / "journal.jsonl").write_bytes(content)
    left = find_unfinished(interrupted)
    assert left is not None
    assert left.finished == ()
    assert merge(*parents, out=interrupted, t=0.3).n_resumed == 0


# --- of another version ---------------------------------------------------------------------------------


@pytest.fixture
def of_format_1(tmp_path):
    """The target of a merge that fusion_slerp interrupted when it wrote journals of format 1."""
    left = FORMAT1.folder / "unfinished/.sharded.partial"
    shutil.copytree(left, tmp_path / ".child.partial", ignore=shutil.ignore_patterns("lock"))
    return tmp_path / "child"


def refusals(target):
    """The problems of a merge to a target before it starts, and when it takes the folder."""
    identity = {"fusion_slerp": __version__, "files": {}}
    (problem,) = check_unfinished(target, identity, overwrite=True)
    yield str(problem)
    with pytest.raises(OutputError) as caught, staging(target, identity, "xxh3_128"):
        pass
    yield str(caught.value)


def test_finished_files_of_another_format_are_left_alone(of_format_1, tmp_path):
    before = contents(tmp_path)
    for message in refusals(of_format_1):
        assert message.splitlines() == [
            "an unfinished merge of another version is in the way",
            f"  out: {of_format_1}",
            f"  unfinished: 2 finished weight files in {tmp_path / '.child.partial'}",
            "  found: fusion_slerp 0.1.0, journal format 1",
            f"  needed: fusion_slerp {__version__}, journal format 2",
            f"Fix: finish it with fusion_slerp 0.1.0, or remove it: fusion_slerp clean {of_format_1}",
        ]
    assert {name: data for name, data in contents(tmp_path).items() if not name.endswith("/lock")} == before


def test_so_are_those_of_a_format_to_come(of_format_1, tmp_path):
    journal = tmp_path / ".child.partial/journal.jsonl"
    lines = [
        {"journal": 7, "identity": {"fusion_slerp": "9.8.7"}, "more": 1},
        {"what": "nobody knows yet"},
        {"file": "x"},
    ]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for message in refusals(of_format_1):
        assert "  unfinished: 1 finished weight files in" in message
        assert "  found: fusion_slerp 9.8.7, journal format 7" in message


def test_so_are_those_of_another_version_with_the_same_format(of_format_1, tmp_path):
    journal = tmp_path / ".child.partial/journal.jsonl"
    lines = [
        {"journal": FORMAT, "identity": {"fusion_slerp": "0.0.1", "files": {}}},
        {"file": "x", "nbytes": 1, "digest": "", "tensors": []},
    ]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for message in refusals(of_format_1):
        assert f"  found: fusion_slerp 0.0.1, journal format {FORMAT}" in message


def test_another_format_without_finished_files_is_cleared(of_format_1, tmp_path):
    journal = tmp_path / ".child.partial/journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    assert check_unfinished(of_format_1, {"files": {}}, overwrite=True) == []
    with staging(of_format_1, {"files": {}}, "xxh3_128") as staged:
        assert (staged.finished, names_in(staged.files)) == ({}, [])
    assert names_in(tmp_path) == []


def test_another_format_whose_model_was_published_is_cleared(of_format_1, tmp_path):
    of_format_1.mkdir()
    (of_format_1 / "merge_manifest.json").write_bytes(b"{}")
    published = json.dumps({"published": hashlib.sha256(b"{}").hexdigest()})
    with (tmp_path / ".child.partial/journal.jsonl").open("a") as journal:
        journal.write(published + "\n")
    assert check_unfinished(of_format_1, {"files": {}}, overwrite=True) == []
    with staging(of_format_1, {"files": {}}, "xxh3_128"):
        pass
    assert names_in(tmp_path) == ["child"]


def test_clean_removes_another_format(of_format_1, tmp_path):
    removed = fusion_slerp.clean(of_format_1)
    assert removed is not None
    assert str(removed) == f"2 of 4 weight files, in {tmp_path / '.child.partial'}"
    assert names_in(tmp_path) == []


# --- the journal and the comparison ---------------------------------------------------------------------


def test_a_journal_line_of_another_form_ends_it(interrupted, parents, tmp_path):
    journal = tmp_path / ".child.partial/journal.jsonl"
    first, second = journal.read_text().splitlines()
    entry = json.loads(second)
    entry["tensors"][0]["surprise"] = 1
    journal.write_text("\n".join([first, json.dumps(entry), ""]))
    assert merge(*parents, out=interrupted, max_shard_size=100).n_resumed == 0


def test_differences_are_named_by_where_they_are():
    before = {"settings": {"t": 0.3, "dtype": None}, "parents": {"a": {"files": {"x": 1}}}}
    now = {"settings": {"t": 0.5, "dtype": None}, "parents": {"a": {"files": {"y": 1}}}}
    assert differences(before, now) == [
        "settings.t: 0.3 before, 0.5 now",
        "parents.a.files.x: 1 before, None now",
        "parents.a.files.y: None before, 1 now",
    ]
