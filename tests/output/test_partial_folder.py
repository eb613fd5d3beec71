"""Whose a partial folder is: only what a merge made is changed or removed."""

import json
import os

import pytest

import fusion_slerp
from fusion_slerp import OutputError, merge
from fusion_slerp.output.journal import Journal
from fusion_slerp.output.lock import FolderLock
from fusion_slerp.output.partial_folder import remove, staging_folder, stranger
from fusion_slerp.output.unfinished import find_unfinished
from tests.models import contents, names_in, partial_folder

FOREIGN = {
    "data": {"sub/data": "precious"},
    "names of ours": {"lock": "", "journal.jsonl": "", "files/model.safetensors": "precious"},
    "another's lock": {"lock": "12345", "data": "precious"},
    "another's empty lock": {"lock": "", "data": "precious"},
    "another's journal": {"journal.jsonl": '{"journal": "of a voyage"}\n', "data": "precious"},
    "another journal": {"journal.jsonl": '{"time": 1, "identity": {}}\n'},
    "a journal that is no file": {"journal.jsonl/x": "precious"},
}


@pytest.fixture(params=FOREIGN)
def foreign(request, tmp_path):
    """A folder with the name of child's partial folder, which somebody else made."""
    for name, text in FOREIGN[request.param].items():
        file = tmp_path / ".child.partial" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "child"


def test_a_merge_refuses_it_by_name(foreign, parents, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=foreign)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "the partial folder was not made by a merge",
        f"  out: {foreign}",
        f"  in the way: {tmp_path / '.child.partial'}",
    ]
    assert lines[3] == f"  found: {', '.join(names_in(tmp_path / '.child.partial'))}"
    assert lines[-1] == "Fix: move it away or remove it yourself, or choose another output folder"
    assert contents(tmp_path) == before


def test_clean_leaves_it_with_a_word(foreign, tmp_path, caplog):
    before = contents(tmp_path)
    assert fusion_slerp.clean(foreign) is None
    assert f"{tmp_path / '.child.partial'} was left alone: no merge made it (found: " in caplog.text
    assert contents(tmp_path) == before
    assert find_unfinished(foreign) is None


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_what_is_no_folder_is_left_alone(tmp_path, parents, caplog, kind):
    precious = partial_folder(tmp_path / "precious")
    place = tmp_path / ".child.partial"
    if kind == "file":
        place.write_text("precious")
    else:
        place.symlink_to(precious if kind == "link" else "nowhere")
    found = "a file" if kind == "file" else f"a link to {os.readlink(place)}"
    assert stranger(place) == found
    with pytest.raises(OutputError, match=f"not made by a merge(.|\n)*found: {found}"):
        merge(*parents, out=tmp_path / "child")
    assert fusion_slerp.clean(tmp_path / "child") is None
    assert f"was left alone: no merge made it (found: {found})" in caplog.text
    assert names_in(precious) == ["lock"]
    assert os.path.lexists(place)


def test_what_a_merge_leaves_that_dies_at_once_is_taken(tmp_path, parents):
    """Between its first steps there is an empty folder, then an empty lock."""
    folder = staging_folder(tmp_path / "child")
    for names in ([], ["lock"]):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        merge(*parents, out=tmp_path / "child", overwrite=True)
        assert names_in(tmp_path) == ["child", "models"]


@pytest.mark.parametrize("sign", ["lock", "journal.jsonl"])
def test_lock_or_journal_are_signs_of_a_merge(tmp_path, sign):
    folder = staging_folder(tmp_path / "child")
    (folder / "files").mkdir(parents=True)
    assert stranger(folder) == "files"
    if sign == "lock":
        lock = FolderLock(folder / "lock")
        lock.acquire()
        lock.release()
    else:
        journal = Journal(folder / "journal.jsonl", None)
        journal.begin({"only once": "x"})
        journal.close()
    assert stranger(folder) is None


def test_a_sign_that_is_a_link_proves_nothing(tmp_path):
    ours = partial_folder(tmp_path / "ours")
    folder = staging_folder(tmp_path / "child")
    folder.mkdir()
    (folder / "lock").symlink_to(ours / "lock")
    assert stranger(folder) == "lock"


def test_the_lock_is_on_the_disk_before_it_is_relied_on(tmp_path, monkeypatch):
    """After a power cut, it has to prove whose the rest is."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    FolderLock(tmp_path / "lock").acquire()
    assert synced == [len((tmp_path / "lock").read_text())]


# --- other things in a merge's folder --------------------------------------------------------------------


def test_what_others_put_into_it_stays(tmp_path, parents, caplog):
    folder = partial_folder(tmp_path / "child")
    (folder / "notes").write_text("precious")
    merge(*parents, out=tmp_path / "child")
    assert contents(folder) == {"notes": b"precious"}
    assert f"{folder} was kept: no merge made what is in it (notes)" in caplog.text


def test_clean_removes_only_what_a_merge_made(tmp_path, caplog):
    folder = partial_folder(tmp_path / "child")
    (folder / "files").mkdir()
    (folder / "notes").write_text("precious")
    assert fusion_slerp.clean(tmp_path / "child") is not None
    assert contents(folder) == {"notes": b"precious"}
    assert "(notes)" in caplog.text


def test_the_signs_stay_with_what_could_not_be_removed(tmp_path, monkeypatch):
    folder = partial_folder(tmp_path / "child")
    (folder / "files").mkdir()
    monkeypatch.setattr("fusion_slerp.output.partial_folder.shutil.rmtree", lambda *a, **k: None)
    assert remove(folder, ignore_errors=True) == []
    assert names_in(folder) == ["files", "lock"]


def test_links_in_it_are_removed_and_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("mine")
    folder = partial_folder(tmp_path / "child")
    for name in ("files", "replaced"):
        (folder / name).symlink_to(tmp_path / "precious")
    (folder / "journal.jsonl").symlink_to(tmp_path / "precious/file")
    fusion_slerp.clean(tmp_path / "child")
    assert contents(tmp_path) == {"precious/file": b"mine"}
    assert names_in(tmp_path) == ["precious"]


def test_a_journal_holds_names_that_are_not_utf8(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", None)
    journal.begin({"folder": "A\udcff"})
    journal.close()
    (line,) = (tmp_path / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["identity"] == {"folder": "A\udcff"}


def test_a_folder_that_a_merge_removes_meanwhile_is_no_strangers(tmp_path, monkeypatch):
    folder = partial_folder(tmp_path / "child")
    (folder / "lock").unlink()
    (folder / "files").mkdir()
    listings = [["files", "journal.jsonl", "lock"], ["files", "lock"], []]
    monkeypatch.setattr("os.listdir", lambda path: listings.pop(0))
    assert stranger(folder) is None
    assert not listings


def test_a_lock_that_is_being_written_is_no_strangers(tmp_path, monkeypatch):
    folder = partial_folder(tmp_path / "child")
    seen = iter((False, True))
    monkeypatch.setattr("fusion_slerp.output.partial_folder._has_sign", lambda file: next(seen, True))
    monkeypatch.setattr("fusion_slerp.output.partial_folder._is_new_lock", lambda *_: False)
    assert stranger(folder) is None
