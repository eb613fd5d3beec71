"""A disk that is really full, and inputs that really cannot be written to, on file systems of their own."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

from fusion_slerp import OutputError, merge, verify
from fusion_slerp.output.unfinished import find_unfinished
from tests.models import contents
from tests.safety.trials import N_TENSORS, SHARD_SIZE, many_shards, state_of, trials


@pytest.fixture
def mount(tmp_path):
    """Mounts file systems, if this process may; they are gone after the test."""
    mounted = []

    def make(name, *arguments):
        folder = tmp_path / name
        folder.mkdir()
        words = ["mount", *arguments, str(folder)]
        if sys.platform != "linux" or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("this process may not mount file systems")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.trial
def test_disks_of_every_size_too_small(mount, tmp_path, monkeypatch, figure):
    parents = many_shards(tmp_path / "models")
    merge(*parents, out=tmp_path / "child", max_shard_size=SHARD_SIZE)
    expected = contents(tmp_path / "child")
    needed = sum(os.stat(tmp_path / "child" / name).st_blocks * 512 for name in expected)
    disk = mount("disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    monkeypatch.setattr(
        "fusion_slerp.api.check_disk_space", lambda target, nbytes: []
    )  # which would predict it
    sizes = [needed * i // trials(60, 6) for i in range(1, trials(60, 6))]
    sizes += [needed + 4096 * pages for pages in range(-trials(30, 3), 3)]  # at the end: side files, manifest
    states = []
    for size in sizes:
        resize(disk, size)
        with pytest.raises(OutputError) as caught:
            merge(*parents, out=disk / "child", max_shard_size=SHARD_SIZE)
        assert os.strerror(errno.ENOSPC) in str(caught.value)
        assert not (disk / "child").exists()
        left = find_unfinished(disk / "child")
        states.append(len(left.finished) if left else 0)
        resize(disk, 2 * needed)
        assert merge(*parents, out=disk / "child", max_shard_size=SHARD_SIZE).n_resumed == states[-1]
        assert state_of(disk / "child") == expected
        shutil.rmtree(disk / "child")
        assert os.listdir(disk) == []
    figure(
        f"full disk: {len(sizes)} sizes from {sizes[0]} to {sizes[-1]} bytes, {states.count(0)} times with "
        f"nothing kept, {states.count(N_TENSORS)} times with all {N_TENSORS} weight files; with more "
        "space, all merges resumed to the same bytes"
    )


def resize(disk, nbytes):
    subprocess.run(["mount", "-o", f"remount,size={max(nbytes, 4096)}", disk], check=True)


def test_space_is_checked_before_anything_is_written(mount, tmp_path):
    parents = many_shards(tmp_path / "models")
    disk = mount("disk", "-t", "tmpfs", "-o", "size=9m", "tmpfs")
    with pytest.raises(OutputError, match="not enough disk space"):
        merge(*parents, out=disk / "child")
    assert os.listdir(disk) == []


def test_a_read_only_disk_holds_inputs_and_no_output(mount, tmp_path):
    parents = many_shards(tmp_path / "models")
    before = contents(tmp_path / "models")
    disk = mount("disk", "--bind", "-o", "ro", str(tmp_path / "models"))
    with pytest.raises(OutputError, match=r"cannot be created\n  out: .*\n.*\n  found: not writable"):
        merge(disk / "a", disk / "b", out=disk / "child")
    merge(disk / "a", disk / "b", out=tmp_path / "child")
    models = {"a": disk / "a", "b": disk / "b"}
    assert verify(tmp_path / "child", inputs=True, recompute="all", models=models).ok
    assert contents(tmp_path / "models") == before
    assert parents[0].is_dir()
