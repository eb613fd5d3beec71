"""Renames that take one step, and the fallback where the system has none."""

import ctypes
import errno

import pytest

from fusion_slerp.output import renames
from fusion_slerp.output.renames import exchange, rename_new
from tests.models import contents


@pytest.fixture
def folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(name.encode())
    return tmp_path / "one", tmp_path / "two"


class OldLibrary:
    """A C library from before these calls."""

    def __init__(self, *arguments, **options) -> None:
        pass


def unsupported(monkeypatch):
    """A file system that knows none of the flags."""
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EINVAL)
    monkeypatch.setattr(ctypes, "CDLL", lambda *a, **k: type("Library", (), {"renameat2": lambda *a: -1})())


def test_two_folders_change_their_names(tmp_path, folders):
    assert exchange(*folders)
    assert contents(tmp_path) == {"one/file": b"two", "two/file": b"one"}


def test_a_new_name_must_be_free_even_of_an_empty_folder(tmp_path, folders):
    rename_new(folders[0], tmp_path / "three")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError):
        rename_new(folders[1], tmp_path / "empty")
    assert contents(tmp_path) == {"three/file": b"one", "two/file": b"two"}


@pytest.mark.parametrize("how", ["old library", "unsupported"])
def test_where_there_is_no_such_call(tmp_path, folders, monkeypatch, how):
    if how == "old library":
        monkeypatch.setattr(ctypes, "CDLL", OldLibrary)
    else:
        unsupported(monkeypatch)
    assert not exchange(*folders)
    rename_new(folders[0], tmp_path / "three")
    with pytest.raises(FileExistsError):
        rename_new(folders[1], tmp_path / "three")
    assert contents(tmp_path) == {"three/file": b"one", "two/file": b"two"}


def test_other_failures_are_told(folders, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as caught:
        exchange(folders[0], tmp_path / "nothing")
    assert caught.value.filename == str(folders[0])
    monkeypatch.setattr(renames.sys, "platform", "win32")
    assert not exchange(*folders)
