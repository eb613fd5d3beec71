"""A bit flipped anywhere in a merged model is found by `verify`, which names the tensor or the file."""

import random

from fusion_slerp import merge, verify
from fusion_slerp.output.manifest import read_manifest
from tests.models import contents
from tests.safety.trials import trials

SEED = 20261127


def test_flipped_bits(tmp_path, parents, figure):
    merge(*parents, out=tmp_path / "child", max_shard_size=200)
    folder, rng, n = tmp_path / "child", random.Random(SEED), trials(1000, 60)
    tensors = read_manifest(folder)["tensors"]
    before = contents(folder)
    n_tensors = 0
    for i in range(n):
        # Files in turn, so that the small ones have their share.
        name = sorted(before)[i % len(before)]
        position, bit = rng.randrange(len(before[name])), rng.randrange(8)
        data = bytearray(before[name])
        data[position] ^= 1 << bit
        (folder / name).write_bytes(data)
        hit = {
            tensor
            for tensor, row in tensors.items()
            if row["file"] == name and row["offset"] <= position < row["offset"] + row["nbytes"]
        }
        deviations = verify(folder).deviations
        assert {d.file for d in deviations} == {name}, (name, position, bit)
        assert {d.tensor for d in deviations} == (hit or {None}), (name, position, bit)
        n_tensors += bool(hit)
        (folder / name).write_bytes(before[name])
    assert verify(folder).ok
    figure(f"flipped bits: {n} of {n} found and named, {n_tensors} of them in tensors")


def test_flipped_bits_in_weights_alone(tmp_path, parents, figure):
    """As large files have them: nearly always in a tensor."""
    merge(*parents, out=tmp_path / "child")
    file, rng, n = tmp_path / "child/model.safetensors", random.Random(SEED), trials(1000, 60)
    tensors = read_manifest(file.parent)["tensors"]
    before = file.read_bytes()
    for _ in range(n):
        name, row = rng.choice(sorted(tensors.items()))
        position = row["offset"] + rng.randrange(row["nbytes"])
        data = bytearray(before)
        data[position] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        assert [d.tensor for d in verify(file.parent).deviations] == [name]
    figure(f"flipped bits in weights: {n} of {n} found, each in its tensor")
