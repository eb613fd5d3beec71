"""What an interrupted merge left: described, compared, removed."""

import itertools
import json
import os

import pytest

import fusion_slerp
from fusion_slerp import OutputError, merge
from fusion_slerp.output.lock import FolderLock
from fusion_slerp.output.staging import Staging
from fusion_slerp.output.unfinished import differences, find_unfinished
from tests.models import contents, names_in


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
    found = find_unfinished(interrupted)
    assert found is not None
    assert str(found) == f"1 of 4 weight files, in {interrupted.with_name('.child.partial')}"
    assert len(found.finished) == 1
    assert found.nbytes > 4096


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
    def stubborn(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fusion_slerp.output.unfinished.shutil.rmtree", stubborn)
    with pytest.raises(OutputError, match=r"cannot be removed\n  folder: .*\n  found: Permission denied"):
        fusion_slerp.clean(interrupted)


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"[]\n", b'{"journal": 99, "identity": {}}\n', b"\0" * 4096]
)
def test_a_journal_that_says_nothing(interrupted, content, parents):
    (interrupted.with_name(".child.partial") / "journal.jsonl").write_bytes(content)
    found = find_unfinished(interrupted)
    assert found is not None
    assert found.finished == ()
    assert merge(*parents, out=interrupted, t=0.3).n_resumed == 0


def test_a_journal_line_of_another_form_ends_it(interrupted, parents, tmp_path):
    journal = tmp_path / ".child.partial/journal.jsonl"
    first, second = journal.read_text().splitlines()
    entry = json.loads(second)
    entry["tensors"][0]["surprise"] = 1
    journal.write_text("\n".join([first, json.dumps(entry), ""]))
    assert merge(*parents, out=interrupted, max_shard_size=100).n_resumed == 0


def test_differences_are_told_by_their_place():
    before = {"settings": {"t": 0.3, "dtype": None}, "a": {"files": {"x": 1}}}
    now = {"settings": {"t": 0.5, "dtype": None}, "a": {"files": {"y": 1}}}
    assert differences(before, now) == [
        "settings.t: 0.3 before, 0.5 now",
        "a.files.x: 1 before, None now",
        "a.files.y: None before, 1 now",
    ]
