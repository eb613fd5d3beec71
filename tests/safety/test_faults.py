"""Every call that can fail, failing once: the target stays unchanged, and the same merge then succeeds."""

import errno
import functools
import io
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from fusion_slerp import FusionSlerpError, merge
from fusion_slerp.output import renames
from fusion_slerp.output.unfinished import find_unfinished
from tests.models import write_checkpoint
from tests.safety.trials import state_of, trials

pytestmark = pytest.mark.trial

WRITES = {
    "open": (os, "open"),
    "mkdir": (os, "mkdir"),
    "posix_fallocate": (os, "posix_fallocate"),
    "pwrite": (os, "pwrite"),
    "write": (os, "write"),
    "fsync": (os, "fsync"),
    "copyfile": (shutil, "copyfile"),
    "write_text": (Path, "write_text"),
    "write_bytes": (Path, "write_bytes"),
    "rename": (renames, "_rename"),
}
READS = {
    "io.open": (io, "open"),
    "open": (os, "open"),
    "preadv": (os, "preadv"),
    "fstat": (os, "fstat"),
    "read_bytes": (Path, "read_bytes"),
}
"""Calls as the merge makes them, by what the system calls them."""


@pytest.fixture
def parents(tmp_path):
    return [write_checkpoint(tmp_path / "models" / name, seed=seed) for seed, name in enumerate("ab")]


class Fault:
    """Lets the n-th of some calls fail; counts them."""

    def __init__(self, calls, code, n) -> None:
        self._calls, self._code, self._n = calls, code, n
        self.count = 0
        self.failed: str | None = None

    def __enter__(self):
        self._patch = pytest.MonkeyPatch()
        for name, (owner, attribute) in self._calls.items():
            self._patch.setattr(owner, attribute, self._wrapped(name, getattr(owner, attribute)))
        return self

    def __exit__(self, *exception):
        self._patch.undo()

    def _wrapped(self, name, real):
        @functools.wraps(real)
        def call(*args, **kwargs):
            self.count += 1
            if self.count == self._n:
                self.failed = name
                raise OSError(self._code, os.strerror(self._code))
            return real(*args, **kwargs)

        return call


def failure_of(run) -> str | None:
    """What our error says; None if there is none."""
    try:
        run()
    except FusionSlerpError as error:
        return str(error)
    return None


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    ("calls", "code"),
    [(WRITES, errno.ENOSPC), (WRITES, errno.EIO), (READS, errno.EIO)],
    ids=["disk full", "failing writes", "failing reads"],
)
def test_every_call_fails_once(tmp_path, parents, figure, calls, code, existing):
    options = {"max_shard_size": 100, "threads": 1, "overwrite": existing}
    merge(*parents, out=tmp_path / "expected/child", **{**options, "overwrite": False})
    expected = state_of(tmp_path / "expected/child")
    target, old = tmp_path / "place/child", None
    with Fault(calls, code, 0) as nothing:
        merge(*parents, out=tmp_path / "count/child", **{**options, "overwrite": False})
    step = 1 if trials(1, 0) else 3
    places, kept, harmless = Counter(), 0, 0
    for n in range(1, nothing.count + 30, step):
        shutil.rmtree(tmp_path / "place", ignore_errors=True)
        if existing:
            merge(*parents, out=target, t=1)
            old = state_of(target)
        with Fault(calls, code, n) as fault:
            message = failure_of(lambda: merge(*parents, out=target, **options))
        if message is None:  # what cannot be looked up, or removed at the end, is no failure
            harmless += fault.failed is not None
            assert state_of(target) == expected
            continue
        assert fault.failed is not None
        assert "Fix: " in message
        assert os.strerror(code) in message
        places[fault.failed] += 1
        state = state_of(target)
        assert state == old, fault.failed
        left = find_unfinished(target)
        kept += left is not None
        result = merge(*parents, out=target, **options)
        assert result.n_resumed == (len(left.finished) if left else 0)
        assert state_of(target) == expected
        assert sorted(path.name for path in (tmp_path / "place").iterdir()) == ["child"]
    assert len(places) >= min(3, len(calls) - 1)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(places.items()))
    kind = "overwriting" if existing else "new"
    figure(
        f"{os.strerror(code)}, {kind}: {sum(places.values())} faults ({counts}); each time the target was "
        f"unchanged, {kept} resumable, {harmless} more without effect; the same merge then succeeds"
    )
