"""Merges of three models, interrupted or killed: resumed to the same bytes, or distinguished."""

import itertools
import json
import shutil
import signal
import subprocess
import sys

import pytest

from fusion_slerp import OutputError, clean, merge, verify
from fusion_slerp.api import prepare_merge
from fusion_slerp.output.staging import Staging
from fusion_slerp.output.unfinished import find_unfinished
from tests.models import (
    contents,
    names_in,
)
from tests.three_models.models import LINEAR, WEIGHT

SHARDS = {"max_shard_size": 60, "threads": 1}


@pytest.fixture
def stop_after(monkeypatch):
    """Interrupts the next merge after a given number of weight files are recorded."""

    def install(n: int) -> None:
        real, calls = Staging.add, itertools.count()

        def add(self, file):
            if next(calls) >= n:
                raise KeyboardInterrupt
            real(self, file)

        monkeypatch.setattr(Staging, "add", add)

    return install


def test_interrupted_anywhere_and_resumed_it_has_the_same_bytes(tmp_path, three, stop_after, monkeypatch):
    merge(*three, out=tmp_path / "expected/child", **LINEAR, **SHARDS)
    expected, target = contents(tmp_path / "expected/child"), tmp_path / "place/child"
    n_files = sum(name.endswith(".safetensors") for name in expected)
    assert n_files == 7
    for n in range(1, n_files):
        stop_after(n)
        with pytest.raises(KeyboardInterrupt):
            merge(*three, out=target, **LINEAR, **SHARDS)
        monkeypatch.undo()
        assert not target.exists()
        left = find_unfinished(target)
        assert left is not None
        result = merge(*three, out=target, **LINEAR, **SHARDS)
        assert result.n_resumed == n
        shards = [shard.nbytes for shard in result.plan.shards if shard.file_name not in left.finished]
        assert result.nbytes_made == sum(shards)
        assert contents(target) == expected
        assert names_in(target.parent) == ["child"]
        assert result.report == merge(*three, out=target, **LINEAR, **SHARDS, overwrite=True).report
        shutil.rmtree(target)


KILLED = """
import json, os, signal, sys
from fusion_slerp.output.staging import Staging
real = Staging.add
def add(self, file):
    real(self, file)
    if len(self.finished) >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
Staging.add = add
from fusion_slerp import merge
merge(*sys.argv[2:], out=sys.argv[1], max_shard_size=60, threads=1, **json.loads(input()))
"""


def test_killed_and_resumed_it_has_the_same_bytes(tmp_path, three):
    words = [sys.executable, "-c", KILLED, str(tmp_path / "child"), *map(str, three)]
    done = subprocess.run(words, input=json.dumps(LINEAR), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert names_in(tmp_path) == [".child.partial"]
    assert merge(*three, out=tmp_path / "child", **LINEAR, **SHARDS).n_resumed >= 3
    merge(*three, out=tmp_path / "expected/child", **LINEAR, **SHARDS)
    assert contents(tmp_path / "child") == contents(tmp_path / "expected/child")
    assert verify(tmp_path / "child").ok


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"weight": {**WEIGHT, "b": 0.31}}, "settings.weight.b: 0.3 before, 0.31 now"),
        ({"weight": {"a": WEIGHT["a"], "c": WEIGHT["c"]}}, "settings.weight.b: 0.3 before, None now"),
        ({"normalize": False}, "settings.normalize: True before, False now"),
        ({"method": "slerp"}, "settings.method: 'linear' before, 'slerp' now"),
    ],
    ids=["weight", "no weight", "normalize", "method"],
)
def test_another_weight_is_another_merge(tmp_path, three, stop_after, monkeypatch, changes, difference):
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        merge(*three, out=tmp_path / "child", **LINEAR, **SHARDS)
    monkeypatch.undo()
    before = contents(tmp_path)
    options = LINEAR | SHARDS | changes
    models = three[:2] if options["method"] == "slerp" else three
    if options["method"] == "slerp":
        del options["weight"]
    with pytest.raises(OutputError, match="a different unfinished merge is in the way") as caught:
        merge(*models, out=tmp_path / "child", **options)
    assert difference in str(caught.value)
    assert contents(tmp_path) == before
    assert clean(tmp_path / "child") is not None
    merge(*models, out=tmp_path / "child", **options)


def test_identities_differ_in_weights_and_models(tmp_path, three):
    def identity(*models, **changes):
        return prepare_merge(models, tmp_path / "child", **(LINEAR | changes)).identity

    usual = identity(*three)
    assert usual == identity(*three, threads=1, memory_budget="200MB")
    assert usual["parents"].keys() == set("abc")
    others = [
        identity(*three, weight={**WEIGHT, "a": [0.5, 0.26]}),
        identity(*three[:2], weight={"a": 0.5, "b": 0.3}),
        identity(three[0], three[2], three[1]),
        identity(*three, normalize=False),
    ]
    assert usual not in others
    assert names_in(tmp_path) == []
