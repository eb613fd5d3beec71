"""Copies: read to where they are written, whatever their size and order in the file, and in one piece."""

import itertools
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, merge, plan_merge, verify
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine import reader
from fusion_slerp.engine.threads import Threads
from fusion_slerp.output.staging import Staging
from fusion_slerp.sources import open_files
from tests.engine.test_many_models import made
from tests.models import as_torch_files, contents, names_in, tiny_tensors, write_checkpoint

STACK = {"method": "passthrough", "slices": [{"a": [0, 2]}, {"b": [1, 3]}]}
UP = "model.layers.{}.mlp.up_proj.weight"
SHARDS = {"max_shard_size": 150, "threads": 1}


def layers(folder, seed: int, n: int = 3, shape=(8, 4), extra=None):
    rng = np.random.default_rng(seed)
    own = {UP.format(i): rng.standard_normal(shape, np.float32) for i in range(n)}
    tensors = tiny_tensors(seed) | own | (extra or {})
    return write_checkpoint(folder, tensors=tensors, config={"num_hidden_layers": n}, n_shards=seed), tensors


@pytest.fixture
def two(tmp_path):
    (a, _), (b, _) = layers(tmp_path / "models/a", 1), layers(tmp_path / "models/b", 2)
    return a, b


def test_no_buffer_for_words_is_used(tmp_path, monkeypatch):
    """A large tensor chunk by chunk, small ones together: each straight into its result."""
    (a, of_a), (b, of_b) = (layers(tmp_path / n, s, shape=(1025, 1030)) for s, n in ((1, "a"), (2, "b")))
    monkeypatch.setattr(reader, "split", lambda *args: pytest.fail("split a buffer"))
    monkeypatch.setattr(Threads, "in_buffer", lambda self: pytest.fail("took a buffer"))
    merge(a, b, out=tmp_path / "child", **STACK)
    child = load_file(tmp_path / "child/model.safetensors")
    for i, (of, old) in enumerate([(of_a, 0), (of_a, 1), (of_b, 1), (of_b, 2)]):
        assert of[UP.format(old)].size > CHUNK_ELEMENTS
        assert np.array_equal(child[UP.format(i)], of[UP.format(old)])
    assert np.array_equal(child["model.embed_tokens.weight"], of_a["model.embed_tokens.weight"])
    assert np.array_equal(child["model.norm.weight"], of_b["model.norm.weight"])


def test_neighbours_are_read_by_one_call(two, tmp_path, monkeypatch):
    a = write_checkpoint(tmp_path / "one", 3)
    real, calls = open_files.read_elements, []
    monkeypatch.setattr(open_files, "read_elements", lambda *args: (calls.append(args), real(*args)))
    plan = plan_merge(a, method="passthrough")
    state = made(plan)
    assert len(calls) == 1
    assert plan.nbytes_read == plan.nbytes_in == sum(tensor.nbytes for tensor in tiny_tensors(3).values())
    assert all(np.array_equal(state[name], each) for name, each in tiny_tensors(3).items())


@pytest.mark.parametrize("threads", [1, 3])
def test_integers_and_odd_lengths(tmp_path, threads):
    extra = {
        "model.ids": np.arange(7),
        "model.flags": np.array([True, False, True]),
        "model.half": np.arange(5, dtype="f2"),
        "model.empty": np.zeros((0, 4), "f4"),
    }
    (a, of_a), (b, _) = layers(tmp_path / "a", 1, extra=extra), layers(tmp_path / "b", 2, extra=extra)
    merge(a, b, out=tmp_path / "child", threads=threads, **STACK)
    child = load_file(tmp_path / "child/model.safetensors")
    for name, each in extra.items():
        assert child[name].tobytes() == of_a[name].tobytes()
        assert child[name].dtype == each.dtype


def test_elements_in_another_order(tmp_path):
    """A transposed tensor of a torch file is put in order."""
    import torch

    (a, _), (b, of_b) = layers(tmp_path / "a", 1), layers(tmp_path / "b", 2)
    merge(a, b, out=tmp_path / "expected", **STACK)
    as_torch_files(b)
    file = b / "pytorch_model.bin"
    state = {name: torch.from_numpy(each) for name, each in of_b.items()}
    name = UP.format(1)
    state[name] = state[name].T.contiguous().T
    torch.save(state, file)
    merge(a, b, out=tmp_path / "child", **STACK)
    weights = "model.safetensors"
    assert (tmp_path / "child" / weights).read_bytes() == (tmp_path / "expected" / weights).read_bytes()


def test_a_file_that_has_become_shorter(two, tmp_path):
    a, b = two
    plan = plan_merge(a, b, **STACK)
    file = next(iter(plan.parents["b"].files))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CheckpointError):
        made(plan)


# Interrupted, verified.


def test_interrupted_anywhere_and_resumed_it_has_the_same_bytes(tmp_path, two, monkeypatch):
    merge(*two, out=tmp_path / "expected/child", **STACK, **SHARDS)
    expected, target = contents(tmp_path / "expected/child"), tmp_path / "place/child"
    n_files = sum(name.endswith(".safetensors") for name in expected)
    assert n_files > 3
    for n in range(1, n_files):
        real, calls = Staging.add, itertools.count()

        def add(self, file, real=real, calls=calls, n=n):
            if next(calls) >= n:
                raise KeyboardInterrupt
            real(self, file)

        monkeypatch.setattr(Staging, "add", add)
        with pytest.raises(KeyboardInterrupt):
            merge(*two, out=target, **STACK, **SHARDS)
        monkeypatch.undo()
        assert not target.exists()
        assert merge(*two, out=target, **STACK, **SHARDS).n_resumed == n
        assert contents(target) == expected
        for path in target.iterdir():
            path.unlink()
        target.rmdir()


KILLED = """
import json, os, signal, sys
from fusion_slerp.output.staging import Staging
real = Staging.add
def add(self, file):
    real(self, file)
    if len(self.finished) >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
Staging.add = add
from fusion_slerp import merge
merge(*sys.argv[2:], out=sys.argv[1], max_shard_size=150, threads=1, **json.loads(input()))
"""


def test_killed_and_resumed_it_has_the_same_bytes(tmp_path, two):
    (tmp_path / "place").mkdir()
    child = tmp_path / "place/child"
    words = [sys.executable, "-c", KILLED, str(child), *map(str, two)]
    done = subprocess.run(words, input=json.dumps(STACK), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert names_in(child.parent) == [".child.partial"]
    assert merge(*two, out=child, **STACK, **SHARDS).n_resumed >= 2
    merge(*two, out=tmp_path / "expected/child", **STACK, **SHARDS)
    assert contents(child) == contents(tmp_path / "expected/child")


@pytest.mark.parametrize("scale", [1.0, {"b": [{"filter": "mlp", "value": 0.5}, {"value": 1}]}], ids=str)
def test_verified_with_inputs_and_all_made_again(tmp_path, two, scale):
    child = tmp_path / "models/child"
    result = merge(*two, out=child, **STACK, scale=scale, max_shard_size=150)
    rules = {row.rule for row in result.report}
    assert rules == ({"copy a", "copy b"} if scale == 1.0 else {"copy a", "copy b", "scaled"})
    found = verify(child, inputs=True, recompute="all")
    assert found.ok
    assert len(found.recomputed) == len(result.report)


def test_a_changed_byte_is_found(tmp_path, two):
    child = tmp_path / "models/child"
    merge(*two, out=child, **STACK)
    file = child / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    assert not verify(child).ok
    assert not verify(child, inputs=True, recompute="all").ok
