"""A lock dies with its owner, and only then."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from fusion_slerp.output import lock as lock_module
from fusion_slerp.output.lock import FolderLock, LockedError, holder

HOLD = """
import sys
from pathlib import Path
from fusion_slerp.output.lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path):
    """A process that holds the lock `lock`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path, other_process):
    with pytest.raises(LockedError, match=f"process {other_process.pid} on "):
        FolderLock(tmp_path / "lock").acquire()
    assert str(other_process.pid) in (holder(tmp_path / "lock") or "")
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert holder(tmp_path / "lock") is None
    FolderLock(tmp_path / "lock").acquire()


def test_released_it_is_free(tmp_path):
    lock = FolderLock(tmp_path / "lock")
    lock.acquire()
    assert holder(tmp_path / "lock") == (tmp_path / "lock").read_text()
    lock.release()
    lock.release()
    assert holder(tmp_path / "lock") is None
    assert holder(tmp_path / "no such lock") is None


def test_a_lock_on_a_removed_file_is_taken_again_on_the_new_one(tmp_path, monkeypatch):
    """The last owner may remove the file between our opening and our locking it."""
    real, calls = lock_module._lock, []

    def removing(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / "lock").unlink()
        real(descriptor)

    monkeypatch.setattr(lock_module, "_lock", removing)
    FolderLock(tmp_path / "lock").acquire()
    assert len(calls) == 2
    monkeypatch.undo()
    assert holder(tmp_path / "lock") is not None


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    import fcntl

    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    FolderLock(tmp_path / "lock").acquire()
    assert "this file system has no locks" in caplog.text


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(tmp_path / "lock").acquire()
    assert (tmp_path / "precious").read_text() == "mine"
