"""Thousands of pickles with steps exchanged, in an archive: each is an error of ours, or plain tensors."""

import io
import os
import random
import zipfile

import torch

from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.torch_archive import read_archive
from tests.hostile.bounds import bounded, parse_s

SEED = 20_240_919
N_CASES = 30_000 if os.environ.get("FUSION_SLERP_TRIALS") == "full" else 600

FUNCTIONS = [
    f"c{name}\n".replace(" ", "\n").encode()
    for name in (
        "collections OrderedDict", "torch Tensor", "torch Size", "torch FloatStorage", "torch device",
        "torch.nn.parameter Parameter", "torch._tensor _rebuild_from_type_v2", "torch float32",
        "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_nested_tensor",
        "torch._utils _rebuild_qtensor", "torch._utils _rebuild_wrapper_subclass",
        "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_device_tensor_from_numpy",
    )
]  # fmt: skip
STEPS = [
    *(bytes([step]) for step in b"()]}\x85\x86\x87tasueRR\x81bQN\x88\x89"),
    *(b"K\x02", b"M\0\x10", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"\x8a\x08\0\0\0\0\0\0\0\x40"),
    *(b"G\x3f\xf0\0\0\0\0\0\0", b"q\0", b"q\1", b"h\0", b"h\1", b"U\1x"),
    *(b"X\1\0\0\0w", b"X\7\0\0\0storage", b"X\3\0\0\0cpu"),
]


def saved() -> dict[str, bytes]:
    """The records of a file that torch wrote, the pickle first."""
    stream = io.BytesIO()
    torch.save({"w": torch.ones(2, 3), "v": torch.nn.Parameter(torch.zeros(4))}, stream)
    with zipfile.ZipFile(stream) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def mutated(rng: random.Random, pickled: bytes) -> bytes:
    """The pickle with one to four places exchanged, taken out or doubled."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(pickled) + 1)
        end = min(len(pickled), start + rng.choice((0, 1, 1, 5)))
        new = (rng.choice(STEPS), rng.choice(FUNCTIONS), rng.randbytes(1), b"", pickled[start:end] * 2)
        pickled = pickled[:start] + rng.choice(new) + pickled[end:]
    return pickled


def invented(rng: random.Random) -> bytes:
    """A few steps of those that torch knows, in any order."""
    steps = (rng.choice(FUNCTIONS if rng.random() < 0.2 else STEPS) for _ in range(rng.randrange(1, 30)))
    return b"\x80\x02" + b"".join(steps) + b"."


def test_damaged_pickles_are_refused_or_hold_tensors(tmp_path):
    rng, records, n_read, reference_s = random.Random(SEED), saved(), 0, parse_s()
    (name,) = (name for name in records if name.endswith("data.pkl"))
    file = tmp_path / "pytorch_model.bin"
    for i in range(N_CASES):
        pickled = mutated(rng, records[name]) if i % 2 else invented(rng)
        with zipfile.ZipFile(file, "w") as archive:
            for record, content in (records | {name: pickled}).items():
                archive.writestr(record, content)
        with bounded(reference_s=lambda: reference_s):
            n_read += try_archive(file)
    assert 0 < n_read < N_CASES // 4


def try_archive(file) -> bool:
    """Whether it can be read; all tensors then lie in the file."""
    try:
        entries = read_archive(file)
    except CheckpointError as error:
        lines = str(error).split("\n")
        assert all(line.isprintable() for line in lines)
        assert lines[-1].startswith("Fix: ")
        return False
    nbytes = file.stat().st_size
    assert all(0 < entry.offset <= entry.offset + entry.nbytes < nbytes for entry in entries)
    return True
