"""Thousands of damaged headers and indexes: each is an error, or what the safetensors library reads as well.

`FUSION_SLERP_TRIALS=full` runs 100,000 cases. `run(n, seed, folder)` runs any number.
"""

import os
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.folder import open_checkpoint
from fusion_slerp.sources.header import read_header
from tests.hostile.bounds import MOST_NBYTES, MOST_PARSES, parse_s, peak_nbytes
from tests.hostile.mutations import mutated, mutated_index, seed_files, seed_index, with_length

SEED = 20_240_917
N_CASES = 100_000 if os.environ.get("FUSION_SLERP_TRIALS") == "full" else 2000

KEPT = {
    "minus nothing for a size": b'{"w":{"dtype":"I8","shape":[-0],"data_offsets":[0,0]}}',
    "minus nothing for an offset": b'{"w":{"dtype":"I8","shape":[0],"data_offsets":[-0,0]}}',
    "half a character in the metadata": rb'{"__metadata__":{"a":"\ud800"}}',
    "half a character for a key of it": rb'{"__metadata__":{"\udc00":"a"}}',
    "more than can be counted, of nothing": (
        b'{"w":{"dtype":"I8","shape":[9223372036854775807,9223372036854775807,0],"data_offsets":[0,0]}}'
    ),
}
"""Headers that were once accepted here and that the library refuses."""

KEPT_INDEXES = {
    "a name that is too long for a file": b'{"weight_map": {"a": "%s"}}' % (b"x" * 300),
    "a name that no system takes": rb'{"weight_map": {"a": "\u0000"}}',
}
"""Indexes that once ended in other errors than our own."""


def run(n: int, seed: int, folder: Path) -> Counter[str]:
    """Tries this number of damaged files, a fifth of them indexes; counts those refused and those read."""
    rng, counts = random.Random(seed), Counter()
    files, index = seed_files(), seed_index()
    _write_shards(folder)
    before, slowest = peak_nbytes(), 0.0
    for i in range(n):
        start = time.process_time()
        if i % 5:
            counts[try_header(folder / "file", mutated(rng, rng.choice(files)))] += 1
        else:
            counts[try_index(folder, mutated_index(rng, index))] += 1
        slowest = max(slowest, time.process_time() - start)
    assert peak_nbytes() - before < MOST_NBYTES
    assert slowest < MOST_PARSES * parse_s()
    return counts


def _write_shards(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    for name, tensor in (("1", "a"), ("2", "b")):
        save_file({tensor: np.zeros(3, "float32")}, folder / f"{name}.safetensors")


def try_header(file: Path, raw: bytes) -> str:
    """Reads the header of these bytes; what is accepted must be what the library finds in them."""
    file.write_bytes(raw)
    try:
        entries = read_header(file)
    except CheckpointError as error:
        check_message(error)
        return "header refused"
    found = {e.name: (e.dtype.code, list(e.shape), raw[e.offset : e.offset + e.nbytes]) for e in entries}
    theirs = safetensors.deserialize(raw)
    assert found == {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in theirs}, raw
    return "header read"


def try_index(folder: Path, raw: bytes) -> str:
    """Opens a checkpoint with this index; what is accepted must hold both tensors where they are."""
    (folder / "model.safetensors.index.json").write_bytes(raw)
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        check_message(error)
        return "index refused"
    assert {name: entry.file.name for name, entry in checkpoint.tensors.items()}.items() <= {
        ("a", "1.safetensors"),
        ("b", "2.safetensors"),
    }
    return "index read"


def check_message(error: CheckpointError) -> None:
    """A message is short, shows no control characters, and ends in what to do."""
    lines = str(error).split("\n")
    assert lines[-1].startswith("Fix: ")
    assert all(line.isprintable() for line in lines)
    assert len(str(error)) < 10_000


def test_damaged_files_are_refused_or_read_as_the_library_reads_them(tmp_path):
    counts = run(N_CASES, SEED, tmp_path)
    assert counts.total() == N_CASES
    assert min(counts[f"{what} {done}"] for what in ("header", "index") for done in ("read", "refused")) > 50


@pytest.mark.parametrize("raw", seed_files())
def test_the_seeds_are_whole(tmp_path, raw):
    assert try_header(tmp_path / "file", raw) == "header read"


@pytest.mark.parametrize("case", KEPT)
def test_kept_headers(tmp_path, case):
    raw = with_length(KEPT[case], b"")
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(raw)
    assert try_header(tmp_path / "file", raw) == "header refused"


@pytest.mark.parametrize("case", KEPT_INDEXES)
def test_kept_indexes(tmp_path, case):
    _write_shards(tmp_path)
    assert try_index(tmp_path, KEPT_INDEXES[case]) == "index refused"
