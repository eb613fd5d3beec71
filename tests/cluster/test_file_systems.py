"""File systems that show late what another machine wrote, that have no locks, or are not shared."""

import errno
import fcntl
import os
import threading

import pytest

from fusion_slerp import OutputError, merge
from fusion_slerp.api import prepare_merge
from fusion_slerp.cluster.merging import run_shared_merge
from fusion_slerp.output import ranks_folder
from tests.cluster.ranks_in_threads import run_ranks
from tests.models import contents, names_in

HOSTS = ("first", "second")


def shared(parents, out, ranks, **options):
    options = {"t": 0.5, "max_shard_size": 100, **options}
    return run_shared_merge(ranks.on_all(lambda: prepare_merge(parents, out, **options)), ranks)


@pytest.fixture
def expected(tmp_path, parents):
    merge(*parents, out=tmp_path / "alone" / "child", t=0.5, max_shard_size=100)
    return contents(tmp_path / "alone" / "child")


def test_a_folder_that_appears_late_is_waited_for(tmp_path, parents, expected, monkeypatch):
    real, calls = ranks_folder._word, []

    def late(folder):
        calls.append(folder)
        return real(folder) if len(calls) > 5 else None

    monkeypatch.setattr(ranks_folder, "_word", late)
    out = tmp_path / "out" / "child"
    ends = run_ranks(2, lambda ranks: shared(parents, out, ranks))
    assert [end.error for end in ends] == [None, None]
    assert len(calls) > 5
    assert contents(out) == expected


@pytest.mark.parametrize("found", [None, "the word of another merge"])
def test_machines_that_do_not_share_the_folder_say_so(tmp_path, parents, monkeypatch, found):
    monkeypatch.setattr(ranks_folder, "_word", lambda folder: found)
    out = tmp_path / "out" / "child"
    ends = run_ranks(2, lambda ranks: shared(parents, out, ranks, rank_timeout=2), HOSTS)
    for end in ends:
        assert isinstance(end.error, OutputError)
        message = str(end.error)
        assert message.startswith("this machine does not see the folder that rank 0 writes to")
        assert f"folder: {tmp_path / 'out' / '.child.partial'}" in message
        assert "Fix: choose an output folder on a file system that all machines of the job share" in message
    assert "rank: 1, on second" in str(ends[0].error)
    assert names_in(tmp_path) == ["models"]


def test_a_file_system_without_locks_will_do(tmp_path, parents, expected, monkeypatch, caplog):
    def refused(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    out = tmp_path / "out" / "child"
    ends = run_ranks(3, lambda ranks: shared(parents, out, ranks))
    assert [end.error for end in ends] == [None] * 3
    assert contents(out) == expected
    assert "this file system has no locks" in caplog.text


def test_nobody_resumes_while_another_rank_may_still_write(tmp_path, parents, monkeypatch):
    """One that was believed dead holds its lock."""
    out, holds, may_end = tmp_path / "out" / "child", threading.Event(), threading.Event()
    folder = tmp_path / "out" / ".child.partial"
    folder.mkdir(parents=True)
    (folder / "lock").write_text("process 1 on first")
    ranks_folder.invite(out, "word")

    def hold():
        with ranks_folder.joined(out, "word", 1, lambda condition: condition()):
            holds.set()
            may_end.wait()

    rank = threading.Thread(target=hold)
    rank.start()
    holds.wait()
    try:
        by = rf"another process is merging(.|\n)*by: process {os.getpid()} on"
        with pytest.raises(OutputError, match=by):
            merge(*parents, out=out, t=0.5)
    finally:
        may_end.set()
        rank.join()
    merge(*parents, out=out, t=0.5)
    assert names_in(out.parent) == ["child"]
