"""Whole merges of small checkpoints: every tensor against the reference; errors leave no trace."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fusion_slerp import CheckpointError, MismatchError, OutputError, merge, slerp
from fusion_slerp.api import merge_into_memory, plan_merge
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.memory_sink import MemorySink
from tests.models import CONFIG, contents, names_in, write_json
from tests.reference import FORMATS, decode, expect, round_to, ulp_error

CODES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
named = pytest.mark.parametrize
Tensors = dict[str, torch.Tensor]
Raw = tuple[str, list[int], bytes]


def write(folder: Path, tensors: Tensors) -> Path:
    """A checkpoint without tokenizer, of one weight file."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", CONFIG)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def write_both(tmp_path: Path, a: Tensors, b: Tensors) -> tuple[Path, Path]:
    return write(tmp_path / "models/a", a), write(tmp_path / "models/b", b)


def read(folder: Path) -> dict[str, Raw]:
    """Every tensor's type, shape and bytes, read by the definition of the format alone."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw = file.read_bytes()
        data_start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:data_start])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = (data_start + offset for offset in entry["data_offsets"])
            tensors[name] = entry["dtype"], entry["shape"], raw[begin:end]
    return tensors


def values(raw: Raw) -> np.ndarray:
    format = FORMATS[CODES[raw[0]]]
    return decode(np.frombuffer(raw[2], format.word), format)


def assert_merged(folder: Path, a: Path, b: Path, t: float, **rules: float) -> None:
    """Every floating tensor of the child is the exactly rounded SLERP of the parents' tensors."""
    child, parent_a, parent_b = read(folder), read(a), read(b)
    assert child.keys() == parent_a.keys()
    for name, raw in child.items():
        x, y = values(parent_a[name]), values(parent_b[name])
        assert raw[1] == parent_a[name][1], name
        wrong = expect(t, x, y, **rules).misrounded(values(raw), x, y, FORMATS[CODES[raw[0]]])
        assert not wrong.any(), (name, np.flatnonzero(wrong)[:5])


def ordinary(name: str, *shape: int, seed: int) -> torch.Tensor:
    """A tensor like a model's weight, rounded by the reference."""
    numbers = np.random.default_rng(seed).normal(0, 0.02, shape)
    return torch.from_numpy(round_to(numbers, FORMATS[name])).to(getattr(torch, name))


def model_of_all_types(seed: int, swapped: bool) -> Tensors:
    """One tensor for each of the 16 pairs of types, and one that is more similar in the two models."""
    tensors = {}
    for x, y in product(FORMATS, FORMATS):
        tensors[f"{x}.{y}"] = ordinary(y if swapped else x, 7, 31, seed=seed + len(tensors))
    near = ordinary("float32", 700, seed=99)
    return tensors | {"near": near + 0.3 * ordinary("float32", 700, seed=seed)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[Path, Path]:
    """Two checkpoints whose types differ within and between them; read-only."""
    a, b = model_of_all_types(0, swapped=False), model_of_all_types(50, swapped=True)
    return write_both(tmp_path_factory.mktemp("mixed"), a, b)


def assert_nothing_left(tmp_path: Path, before: dict[str, bytes]) -> None:
    assert names_in(tmp_path) == ["models"]
    assert contents(tmp_path) == before


# Values.


@named("t", [0.5, 0.3, 0.97])
def test_every_pair_of_types_keeps_the_first_type_and_is_rounded_once(mixed, tmp_path, t):
    result = merge(*mixed, out=tmp_path / "child", t=t)
    assert result.counts == {"slerp": 17}
    assert {name: raw[0] for name, raw in read(tmp_path / "child").items()} == {
        name: raw[0] for name, raw in read(mixed[0]).items()
    }
    assert_merged(tmp_path / "child", *mixed, t)


@named("dtype", FORMATS)
def test_dtype_sets_the_type_of_every_floating_tensor(mixed, tmp_path, dtype):
    merge(*mixed, out=tmp_path / "child", t=0.4, dtype=dtype)
    assert {CODES[raw[0]] for raw in read(tmp_path / "child").values()} == {dtype}
    assert_merged(tmp_path / "child", *mixed, 0.4)


def test_no_element_is_further_than_half_a_unit_in_the_last_place(tmp_path):
    names = ("bfloat16", "float16", "float32")
    a = {name: ordinary(name, 20_000, seed=1) for name in names}
    b = {name: a[name] + 0.15 * ordinary(name, 20_000, seed=2) for name in names}
    folders = write_both(tmp_path, a, b)
    merge(*folders, out=tmp_path / "child", t=0.3)
    for name, raw in read(tmp_path / "child").items():
        x, y = values(read(folders[0])[name]), values(read(folders[1])[name])
        error = ulp_error(values(raw), expect(0.3, x, y).values(x, y), FORMATS[name])
        assert 0.49 < error.max() <= 0.5 + 1e-6


LENGTHS = [CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 2 * CHUNK_ELEMENTS + 77]


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[Path, Path]:
    """Tensors around the borders of chunks, with small ones in between; read-only."""
    names = ["float16", "bfloat16", "float32", "bfloat16"]

    def model(seed: int) -> Tensors:
        large = {f"{i}.long": ordinary(names[i], n, seed=seed + i) for i, n in enumerate(LENGTHS)}
        return large | {f"{i}.short": ordinary(names[i], 100 * i + 1, seed=seed + 9 + i) for i in range(4)}

    return write_both(tmp_path_factory.mktemp("long"), model(0), model(20))


@pytest.mark.long
def test_tensors_around_the_borders_of_chunks(long, tmp_path):
    merge(*long, out=tmp_path / "child", t=0.3)
    assert_merged(tmp_path / "child", *long, 0.3)


@named("options", [{"t": 0.3}, {"t": 0.3, "dtype": "float16"}, {"t": 1}], ids=str)
def test_the_bytes_do_not_depend_on_the_number_of_threads(long, tmp_path, options):
    for threads in (1, 2, 4):
        merge(*long, out=tmp_path / str(threads) / "child", threads=threads, **options)
    expected = contents(tmp_path / "1/child")
    assert contents(tmp_path / "2/child") == expected
    assert contents(tmp_path / "4/child") == expected


def test_more_tensors_than_are_under_way_at_once(tmp_path):
    """Each is half a chunk and one element, so none shares a task; the small ones in between do."""
    counts = [CHUNK_ELEMENTS // 2 + 1] * 22
    a, b = (
        {f"{i:02}": torch.roll(base, i)[:n] for i, n in enumerate(counts)}
        | {f"{i:02}.small": torch.roll(base, i)[: 10 * i] for i in range(22)}
        for base in (ordinary("bfloat16", CHUNK_ELEMENTS, seed=s) for s in (3, 4))
    )
    folders = write_both(tmp_path, a, b)
    plan = plan_merge(*folders, t=0.3, threads=2, max_shard_size="5MB")
    sink, progress, files = MemorySink(plan), [], []
    nbytes_read = execute(plan, sink, files.append, on_bytes=lambda nbytes, *_: progress.append(nbytes))
    child = sink.state_dict()
    files.sort(key=lambda file: file.name)
    assert [file.name for file in files] == [shard.file_name for shard in plan.shards]
    reports = [report.name for file in files for report in file.reports]
    assert reports == [tensor.out.name for tensor in plan.tensors]
    assert nbytes_read == plan.nbytes_read
    assert len(plan.shards) > 4
    assert sum(progress) == sum(tensor.nbytes for tensor in a.values())
    for name, tensor in a.items():
        assert torch.equal(child[name], slerp(0.3, tensor, b[name])), name


def test_small_shards_hold_the_bytes_of_one_file(mixed, tmp_path):
    """No task may extend from one file into the next."""
    merge(*mixed, out=tmp_path / "one", t=0.3)
    merge(*mixed, out=tmp_path / "many", t=0.3, max_shard_size="3kB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert read(tmp_path / "many") == read(tmp_path / "one")


def test_a_merge_into_memory_gives_the_bytes_of_a_merge_to_disk(mixed, tmp_path):
    merge(*mixed, out=tmp_path / "child", t=0.6)
    state_dict, report = merge_into_memory(*mixed, t=0.6)
    assert len(report) == len(state_dict)
    written = read(tmp_path / "child")
    assert state_dict.keys() == written.keys()
    for name, tensor in state_dict.items():
        assert list(tensor.shape) == written[name][1]
        assert tensor.view(torch.uint8).numpy().tobytes() == written[name][2]


@named("shape", [(), (1,), (0,), (4, 0)], ids=str)
def test_scalars_and_empty_tensors(tmp_path, shape):
    a, b = (
        {name: ordinary(name, *shape, seed=seed) for name in FORMATS}
        | {"steps": torch.full(shape, 7), "around": ordinary("float32", 5, seed=seed)}
        for seed in (5, 6)
    )
    folders = write_both(tmp_path, a, b)
    merge(*folders, out=tmp_path / "child", t=0.25)
    child = read(tmp_path / "child")
    assert child.pop("steps") == read(folders[0])["steps"]
    for name, raw in child.items():
        x, y = (a[name].double().numpy().reshape(-1), b[name].double().numpy().reshape(-1))
        assert raw[1] == list(a[name].shape)
        format = FORMATS[CODES[raw[0]]]
        assert not expect(0.25, x, y).misrounded(values(raw), x, y, format).any()


# The rules.


def test_each_tensor_is_reported_with_its_rule_angle_and_norms(tmp_path):
    v = torch.tensor([3.0, 4.0, 0.0])
    pairs = {
        "apart": (v, torch.tensor([0.0, 0.0, 2.0]), "slerp", 90.0),
        "zero a": (0 * v, v, "lerp: zero vector", None),
        "zero b": (v, 1e-10 * v, "lerp: zero vector", None),
        "parallel": (v, 2 * v, "lerp: nearly parallel", 0.0),
        "near": (v, torch.tensor([3.0, 4.0, 0.1]), "lerp: nearly parallel", 1.1458),
        "opposite": (v, -3 * v, "lerp: nearly opposite", 180.0),
    }
    a, b = ({name: pair[side].clone() for name, pair in pairs.items()} for side in (0, 1))
    folders = write_both(tmp_path, a, b)
    result = merge(*folders, out=tmp_path / "child", t=0.3)
    assert_merged(tmp_path / "child", *folders, 0.3)
    assert len(result.report) == len(pairs)
    for report in result.report:
        a, b, rule, angle = pairs[report.name]
        assert (report.rule, report.values, report.n_elements) == (rule, {"t": 0.3}, 3)
        assert report.angle_deg == (angle if angle is None else pytest.approx(angle, abs=2e-4))
        assert report.norms == {
            label: pytest.approx(vector.double().norm().item(), rel=1e-15)
            for label, vector in (("a", a), ("b", b))
        }
    assert result.counts["lerp: zero vector"] == 2


def test_DOT_THRESHOLD_and_epsilon_decide_the_rule(mixed, tmp_path):
    angles = {report.angle_deg for report in merge(*mixed, out=tmp_path / "0").report}
    assert max(angles) > 89 > 30 > min(angles)  # "near" is at 23 degrees
    result = merge(*mixed, out=tmp_path / "1", t=0.3, DOT_THRESHOLD=0.8)
    assert result.counts == {"slerp": 16, "lerp: nearly parallel": 1}
    assert_merged(tmp_path / "1", *mixed, 0.3, threshold=0.8)
    result = merge(*mixed, out=tmp_path / "2", t=0.3, epsilon=0.4)
    assert result.counts == {"lerp: zero vector": 16, "slerp": 1}
    assert_merged(tmp_path / "2", *mixed, 0.3, epsilon=0.4)


@named("n", [3000, CHUNK_ELEMENTS + 3], ids=["one chunk", "two chunks"])
def test_threshold_one_reads_large_and_small_tensors_again(tmp_path, n):
    base = ordinary("float32", n, seed=7)
    folders = write_both(tmp_path, {"w": base}, {"w": base + 1e-5 * ordinary("float32", n, seed=8)})
    result = merge(*folders, out=tmp_path / "child", t=0.3, DOT_THRESHOLD=1)
    assert result.counts == {"slerp": 1}
    assert_merged(tmp_path / "child", *folders, 0.3, threshold=1.0)


def test_huge_float64_weights_have_their_angle(tmp_path):
    a, b = (ordinary("float64", CHUNK_ELEMENTS // 64, seed=s) * 1e200 for s in (9, 10))
    folders = write_both(tmp_path, {"w": a}, {"w": b})
    assert merge(*folders, out=tmp_path / "child", t=0.3).counts == {"slerp": 1}
    assert_merged(tmp_path / "child", *folders, 0.3)


# The ends.


def strange(name: str, seed: int) -> torch.Tensor:
    """Every kind of word: both zeros, subnormals, infinities, NaN with payloads."""
    format = FORMATS[name]
    sign = 1 << (8 * format.word.itemsize - 1)
    words = np.random.default_rng(seed).integers(0, 2 * sign, 500, format.word)
    words[:6] = [0, sign, 1, format.infinity, format.infinity | 3, sign | format.infinity | 1]
    return torch.from_numpy(words.view(f"int{8 * words.itemsize}")).view(getattr(torch, name))


@named("t", [0, 1, 0.0, 1.0])
def test_at_an_end_every_tensor_is_that_parents_bytes(tmp_path, t):
    a, b = (
        {name: strange(name, seed) for name in FORMATS}
        | {"long": ordinary("bfloat16", 2 * CHUNK_ELEMENTS + 5, seed=seed)}
        | {"scalar": ordinary("float32", seed=seed), "empty": torch.empty(0, 3)}
        | {"steps": torch.arange(9) + seed, "mask": torch.arange(5) % 2 == seed % 2}
        for seed in (11, 12)
    )
    folders = write_both(tmp_path, a, b)
    result = merge(*folders, out=tmp_path / "child", t=t)
    assert result.counts == {"copy b" if t else "copy a": len(a)}
    assert read(tmp_path / "child") == read(folders[1 if t else 0])


@named("n", [1000, CHUNK_ELEMENTS + 5], ids=["one chunk", "two chunks"])
def test_at_t_1_a_parent_of_another_type_is_rounded_once_to_the_first_ones(tmp_path, n):
    b = {"w": ordinary("float64", n, seed=13)}
    folders = write_both(tmp_path, {"w": ordinary("bfloat16", n, seed=14)}, b)
    merge(*folders, out=tmp_path / "child", t=1)
    raw = read(tmp_path / "child")["w"]
    assert raw[0] == "BF16"
    np.testing.assert_array_equal(values(raw), round_to(b["w"].numpy(), FORMATS["bfloat16"]))


# Integers, booleans and complex numbers.


def with_buffers(seed: int) -> Tensors:
    buffers = {
        "steps": torch.arange(CHUNK_ELEMENTS + 9, dtype=torch.int32),
        "ids": torch.tensor([[1, 2], [3, 2**62]]),
        "mask": torch.tril(torch.ones(5, 5)).bool(),
        "bytes": torch.arange(256).to(torch.uint8),
        "scalar": torch.tensor(5, dtype=torch.int16),
        "turns": torch.polar(torch.ones(3, 2), torch.arange(6.0).reshape(3, 2)),
    }
    return buffers | {"w": ordinary("bfloat16", 40, seed=seed)}


@named("dtype", [None, "float32"])
def test_what_is_never_interpolated_is_copied_whatever_dtype_says(tmp_path, dtype):
    folders = write_both(tmp_path, with_buffers(15), with_buffers(16))
    result = merge(*folders, out=tmp_path / "child", dtype=dtype)
    assert result.counts == {"copy if equal": 6, "slerp": 1}
    child, parent = read(tmp_path / "child"), read(folders[0])
    assert child.pop("w")[0] == ("F32" if dtype else parent["w"][0])
    assert child == {name: parent[name] for name in child}


@named(
    ("name", "code", "first"),
    [
        ("steps", "I32", CHUNK_ELEMENTS + 2),
        ("steps", "I32", 3),
        ("ids", "I64", 3),
        ("mask", "BOOL", 24),
        ("bytes", "U8", 17),
        ("scalar", "I16", 0),
        ("turns", "C64", 4),
    ],
)
def test_what_is_never_interpolated_and_differs_is_refused(tmp_path, name, code, first):
    a, b = with_buffers(17), with_buffers(18)
    as_integers = {"mask": torch.uint8, "turns": torch.int64}
    flat = b[name].view(as_integers.get(name, b[name].dtype)).view(-1)
    flat[first] ^= 1
    flat[-1] ^= 1 if first < flat.numel() - 1 else 0
    folders = write_both(tmp_path, a, b)
    before = contents(tmp_path)
    with pytest.raises(MismatchError) as caught:
        merge(*folders, out=tmp_path / "child")
    message = str(caught.value)
    assert f"tensor: {name} ({code})" in message
    assert f"first at element {first}\n" in message
    assert str(folders[0] / "model.safetensors") in message
    assert str(folders[1] / "model.safetensors") in message
    assert message.splitlines()[-1].startswith("Fix: ")
    assert_nothing_left(tmp_path, before)
    merge(*folders, out=tmp_path / "child", t=1)
    assert read(tmp_path / "child")[name] == read(folders[1])[name]


# Values that cannot be merged.


@named("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
@named("side", ["a", "b"])
@named("name", FORMATS)
def test_an_element_that_is_not_finite_is_refused(tmp_path, name, side, bad):
    models = {
        s: {"fine": ordinary(name, 50, seed=19), "w": ordinary(name, 10, 50, seed=ord(s))} for s in "ab"
    }
    models[side]["w"][3, 7] = models[side]["w"][9, 49] = bad
    refused(tmp_path, models, side, "2 of 500 elements, first at 157")


@named("threads", [1, 4])
def test_elements_that_are_not_finite_are_counted_over_all_chunks(tmp_path, threads):
    models = {s: {"w": ordinary("bfloat16", 2 * CHUNK_ELEMENTS + 50, seed=ord(s))} for s in "ab"}
    models["b"]["w"][[CHUNK_ELEMENTS + 4, CHUNK_ELEMENTS + 9, 2 * CHUNK_ELEMENTS + 1]] = float("inf")
    where = f"3 of {2 * CHUNK_ELEMENTS + 50} elements, first at {CHUNK_ELEMENTS + 4}"
    refused(tmp_path, models, "b", where, threads=threads)


def refused(tmp_path: Path, models: dict[str, Tensors], side: str, where: str, **options: object) -> None:
    folders = {s: write(tmp_path / "models" / s, models[s]) for s in "ab"}
    before = contents(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        merge(folders["a"], folders["b"], out=tmp_path / "child", **options)
    lines = str(caught.value).splitlines()
    file = folders[side] / "model.safetensors"
    assert lines[:-1] == [
        "NaN or infinity in a weight",
        "  tensor: w",
        f"  {side}: {where}",
        f"  file: {file}",
    ]
    assert lines[-1].startswith("Fix: ")
    assert_nothing_left(tmp_path, before)


def test_both_parents_are_named_where_both_are_not_finite(tmp_path):
    bad = torch.tensor([1.0, float("nan")])
    folders = write_both(tmp_path, {"w": bad}, {"w": bad.flip(0)})
    with pytest.raises(CheckpointError, match=r"(?s)a: 1 of 2 elements, first at 1.*b: 1 of 2 .* first at 0"):
        merge(*folders, out=tmp_path / "child")


@named(
    ("a", "b", "options", "count"),
    [
        ([6e4, 6e4, 1.0], [6e4, -1e4, 3e4], {}, 1),
        ([1.0, 2.0, 3.0], [1e5, -1e5, 1.0], {"t": 1}, 2),
        ([1.0, 2.0, 3.0], [1e6, -1e5, 1e7], {}, 2),
    ],
    ids=["the factors sum to more than 1", "a copy of a wider type", "the other parent is wider"],
)
def test_overflow_of_float16_is_refused_and_bfloat16_helps(tmp_path, a, b, options, count):
    wide = torch.float16 if max(b) < 65504 else torch.float32
    folders = write_both(tmp_path, {"w": torch.tensor(a).half()}, {"w": torch.tensor(b).to(wide)})
    before = contents(tmp_path)
    with pytest.raises(OutputError) as caught:
        merge(*folders, out=tmp_path / "child", **options)
    message = str(caught.value)
    assert message.startswith("overflow to infinity in float16\n  tensor: w\n")
    assert re.search(rf"found: {count} values", message)
    assert message.splitlines()[-1].startswith("Fix: use dtype='bfloat16'")
    assert_nothing_left(tmp_path, before)
    merge(*folders, out=tmp_path / "child", dtype="bfloat16", **options)
    assert np.isfinite(values(read(tmp_path / "child")["w"])).all()


def test_overflow_of_bfloat16_is_refused_and_float64_helps(tmp_path):
    folders = write_both(
        tmp_path,
        {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)},
        {"w": torch.tensor([1e300, 0.0], dtype=torch.float64)},
    )
    with pytest.raises(OutputError, match=r"(?s)^overflow to infinity in bfloat16.*Fix: use dtype='float64'"):
        merge(*folders, out=tmp_path / "child")
    merge(*folders, out=tmp_path / "child", dtype="float64")
    assert_merged(tmp_path / "child", *folders, 0.5)


# Memory.


PEAK_OF_TWO_MERGES = """
import re, sys
from fusion_slerp import merge

small, large, out = sys.argv[1:]
for size in (small, large):
    result = merge(size + "/a", size + "/b", out=out + "/" + size.rpartition("/")[2], threads=2)
    print(result.plan.peak_nbytes)
    print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


def write_sparse(folder: Path, n: int, first: list[float]) -> None:
    """A checkpoint of one bfloat16 tensor, zero except for its first elements; takes no disk space."""
    write(folder, {"w": torch.tensor([0.0], dtype=torch.bfloat16)})
    header = json.dumps({"w": {"dtype": "BF16", "shape": [n], "data_offsets": [0, 2 * n]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(torch.tensor(first, dtype=torch.bfloat16).view(torch.int16).numpy().tobytes())
        file.truncate(8 + len(header) + 2 * n)


# Not getrusage: on Linux its peak counts the memory of the process that started this one.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_largest_tensor(tmp_path):
    """Beyond the budget, a tensor of 512 MB takes the memory of one of 128 MB: as the plan predicts."""
    for size, n in (("small", 1 << 26), ("large", 1 << 28)):
        write_sparse(tmp_path / size / "a", n, [1.0, 0.5])
        write_sparse(tmp_path / size / "b", n, [-0.5, 1.0])
    command = [
        sys.executable,
        "-c",
        PEAK_OF_TWO_MERGES,
        *(str(tmp_path / s) for s in ("small", "large", "out")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted_small, small, predicted_large, large = map(int, done.stdout.split())
    assert (tmp_path / "out/large/model.safetensors").stat().st_size > 2 << 28
    assert predicted_large == predicted_small
    assert large * 1024 <= 1.1 * small * 1024
    assert 0.6 * predicted_large < large * 1024 < 1.1 * predicted_large
