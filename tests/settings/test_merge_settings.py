"""The options of a merge: every default, every check, and the effect of each."""

import ast
import json
import math
import os
import re
import shlex
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, MergeSettings, OutputError, SettingsError, merge, plan_merge
from fusion_slerp.cli.options import flag, long_flag, parse_options
from fusion_slerp.engine import threads as engine_threads
from fusion_slerp.methods import DEFAULT, METHODS
from fusion_slerp.methods.linear import LinearOptions
from fusion_slerp.methods.slerp import SlerpOptions
from fusion_slerp.options import declaration, declared
from fusion_slerp.planning.memory import READERS, WRITERS
from fusion_slerp.settings.merge_settings import available_cpus, make_settings, option_fields
from fusion_slerp.settings.sizes import parse_nbytes
from tests.models import names_in, tiny_tensors, tokenizer_json, write_checkpoint, write_json

NUMBERS_IN_0_1 = [-0.1, 1.1, -math.inf, math.inf, math.nan, 10**400, True, None, "0.5", "abc", [0.5], 1j]

TOKENS_FIX = "the form of tokens={'<|im_end|>': {'source': 'b', 'force': True}}"

WRONG = {
    "t": (
        [*(value for value in NUMBERS_IN_0_1 if value != [0.5]), [], [0, 2], [0.5, "1"], [[0.5]]],
        "a number in [0, 1], a list of them, or entries",
        "t=0.5",
    ),
    "slices": (
        [3, [], "0-16"],
        "a list of slices",
        "ranges such as slices=[{'a': [0, 2], 'b': [0, 2]}], up to the models' number of layers",
    ),
    "DOT_THRESHOLD": (NUMBERS_IN_0_1, "a number in [0, 1]", "DOT_THRESHOLD=0.9995"),
    "epsilon": ([-1e-9, math.inf, math.nan, True, None, "1e-8"], "a number, at least 0", "epsilon=1e-08"),
    "dtype": (
        ["bf17", "int8", "", 16, np.float32, "torch.int8", "torch."],
        "one of bfloat16, float16, float32, float64, or null",
        "dtype='bfloat16'",
    ),
    "max_shard_size": (
        [0, -1, 1.5, True, None, "", "5", "GB", "5XB", "0GB", "-5GB", "5GB/s", "1e9B", math.nan],
        "a size such as 5GB",
        "max_shard_size='5GB'",
    ),
    "tokenizer": (
        ["", None, 3, ["a"], Path("folder")],
        "a string: union, a label such as a, a folder or a hub id",
        "tokenizer='union'",
    ),
    "method": (["slerq", "", None, 2, ["slerp"], np.float32], "one of slerp, linear", "method='slerp'"),
    "weight": (
        [math.nan, math.inf, True, None, "1", [], [1, "2"], 1j],
        "a finite number, a list of them, or entries",
        "weight={'a': 0.4, 'b': 0.6}",
    ),
    "normalize": ([1, 0, None, "true"], "true or false", "normalize=True"),
    "granularity": (["rows", None, 1], "one of tensor, row, column", "granularity='tensor'"),
    "missing": (["ignore", None, True], "one of error, copy", "missing='error'"),
    "chat_template": (["", "chatml", 1], "the text of a Jinja template, or null", None),
    "vocab_fill": (["owners", None, 0], "one of owner, mean, gradient, zeros, error", "vocab_fill='owner'"),
    "tokens": (["<x>", 1], "a mapping from tokens to their sources", TOKENS_FIX),
    "pad_vocab_to_multiple_of": (
        [0, -8, 1.5, True, "64", math.inf],
        "a whole number, at least 1, or null",
        "pad_vocab_to_multiple_of=64",
    ),
    "vocabulary_tensors": (
        ["follow", 1, {"model.x.weight": "go"}],
        "follow or stay by the name of a tensor, or null",
        "vocabulary_tensors={'model.embed_tokens.weight': 'follow'}",
    ),
    "config_overrides": (
        ["x", 1, [{"x": 1}], {1: 2}, {"": 1}, {"a..b": 1}, {"x": {1j}}, {"x": math.nan}],
        "values that JSON has, by key, such as {max_position_embeddings: 8192}, or null",
        "config_overrides={'text_config.max_position_embeddings': 8192}",
    ),
    "strict": ([1, 0, None, "true"], "true or false", "strict=False"),
    "follow_links": ([1, 0, None, "true"], "true or false", "follow_links=False"),
    "hash_inputs": ([1, 0, None, "true"], "true or false", "hash_inputs=True"),
    "overwrite": ([1, 0, None, "true", "all"], "true, false or any", "overwrite=False"),
    "threads": (
        [0, -1, 1.5, True, "2", math.inf, math.nan],
        "a whole number, at least 1, or null",
        "threads=1",
    ),
    "memory_budget": ([0, 1.5, "200", "MB", True], "a size such as 200MB, or null", "memory_budget='200MB'"),
    "direct_io": (["yes", None, 1, "On"], "one of auto, on, off", "direct_io='auto'"),
    "checksum": (["md5", None, "SHA256"], "one of xxh3_128, blake3, sha256", "checksum='xxh3_128'"),
    "rank_timeout": ([0, -1, None, "60", True], "a number of seconds, at least 1", "rank_timeout=600.0"),
    "show_pbar": ([1, None, "yes"], "true, false or json", "show_pbar=False"),
}
CASES = [(name, value) for name, (values, _, _) in WRONG.items() for value in values]

REFUSED = [None, "much", math.nan, math.inf, -1e300, object()]
"""Values that no option of a method takes; see `test_wrong_value_of_an_option_of_a_method`."""


def made_with(name: str, value: object) -> MergeSettings:
    """Settings with one option, of the method that has it."""
    methods = [method.name for method in METHODS.values() if name in declared(method.options)]
    return make_settings(**{"method": methods[0] if methods else DEFAULT, name: value})


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={value!r}" for name, value in CASES])
def test_wrong_value(name, value):
    _, needed, fix = WRONG[name]
    with pytest.raises(SettingsError) as caught:
        made_with(name, value)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"invalid {name}"
    assert lines[1] == f"  found: {value!r} ({type(value).__name__})"
    assert lines[2].startswith(f"  needed: {needed}")
    assert lines[3:] == [f"Fix: leave out {name}" if fix is None else f"Fix: use {fix}"]


def test_every_setting_has_a_wrong_value_here_and_its_fix_is_right():
    assert set(declared(MergeSettings)) <= WRONG.keys() <= option_fields().keys()
    for name, (_, _, fix) in WRONG.items():
        if fix is not None:
            value = re.search(rf"\b{name}=(.*?)(, up to .*)?$", fix)
            assert value is not None, fix
            made_with(name, ast.literal_eval(value[1]))


@pytest.mark.parametrize(
    ("method", "name"),
    [(method.name, name) for method in METHODS.values() for name in declared(method.options)],
)
def test_wrong_value_of_an_option_of_a_method(method, name):
    about = declaration(declared(METHODS[method].options)[name])
    wrong = [value for value in REFUSED if not about.check.is_fine(value)]
    assert len(wrong) >= 2
    for value in wrong:
        with pytest.raises(SettingsError) as caught:
            make_settings(**{"method": method, name: value})
        lines = str(caught.value).splitlines()
        assert lines[0] == f"invalid {name}"
        assert lines[1] == f"  found: {value!r} ({type(value).__name__})"
        assert lines[2].startswith(f"  needed: {about.check.needed}")
        assert lines[3] == f"Fix: use {name}={about.example!r}"


@pytest.mark.parametrize("name", [name for name, (_, _, fix) in WRONG.items() if fix is not None])
def test_the_fix_is_understood_by_the_command(name):
    with pytest.raises(SettingsError) as caught:
        made_with(name, WRONG[name][0][0])
    fix = caught.value.message("command").rpartition("Fix: ")[2].partition(", up to")[0]
    typed = re.search(r"(-t|-w|--[a-z-]+)(?: (.*))?$", fix)
    assert typed is not None, fix
    assert typed[1] in (flag(name), long_flag(name, False))
    value: object = not typed[1].startswith("--no-") if typed[2] is None else shlex.split(typed[2])[0]
    made_with(name, parse_options({name: [value] if name == "weight" else value})[name])


@pytest.mark.parametrize("method", METHODS)
def test_all_wrong_values_at_once(method):
    known = {**declared(MergeSettings), **declared(METHODS[method].options)}
    wrong = {name: values[0] for name, (values, _, _) in WRONG.items() if name in known and name != "method"}
    with pytest.raises(SettingsError) as caught:
        make_settings(**wrong, method=method)
    message = str(caught.value)
    assert message.startswith(f"{len(wrong)} problems, nothing was written:")
    assert {problem.headline for problem in caught.value.problems} == {f"invalid {n}" for n in wrong}


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        *[(name, name) for name in ("bfloat16", "float16", "float32", "float64")],
        *[(name, "bfloat16") for name in ("bf16", "BF16", "torch.bfloat16", " bfloat16 ")],
        *[(name, "float16") for name in ("fp16", "f16", "half", "FP16", "torch.half")],
        *[(name, "float32") for name in ("fp32", "F32", "float", "torch.float")],
        *[(name, "float64") for name in ("fp64", "F64", "double", "torch.float64")],
        (torch.bfloat16, "bfloat16"),
        (torch.half, "float16"),
    ],
    ids=str,
)
def test_synonyms_of_types_are_stored_by_the_name_of_torch(given, dtype):
    settings = make_settings(dtype=given)
    assert settings.dtype == settings.options["dtype"] == dtype
    assert settings == make_settings(dtype=dtype)


def test_wrong_dtype_gets_the_nearest_name():
    with pytest.raises(SettingsError, match=r"did you mean 'bfloat16'\?"):
        make_settings(dtype="bfloat")
    with pytest.raises(SettingsError, match=r"did you mean 'slerp'\?"):
        make_settings(method="slurp")


@pytest.mark.parametrize(
    ("name", "nearest"), [("T", "t"), ("dot_threshold", "DOT_THRESHOLD"), ("max_shard", "max_shard_size")]
)
def test_unknown_name(tmp_path, name, nearest):
    with pytest.raises(SettingsError) as caught:
        merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "child", **{name: 1})
    message = str(caught.value)
    assert f"merge has no setting {name!r} (did you mean {nearest!r}?)" in message
    known = sorted([*declared(MergeSettings), *declared(SlerpOptions)])
    assert f"known settings: {', '.join(known)}\n" in message
    assert message.splitlines()[-1].startswith("Fix: ")


def test_several_unknown_names_are_named_together():
    with pytest.raises(SettingsError, match=r"no setting 'dtipe' \(did you mean 'dtype'\?\), 'wait'"):
        make_settings(dtipe=1, wait=2)


def test_settings_are_checked_before_a_model_is_looked_for(tmp_path):
    with pytest.raises(SettingsError, match="invalid t"):
        merge(tmp_path / "nowhere", tmp_path / "nowhere", out=tmp_path / "child", t=2)


def test_defaults():
    settings = make_settings()
    assert settings == MergeSettings()
    assert settings.method == "slerp"
    assert settings.parameters == SlerpOptions(
        t=0.5, DOT_THRESHOLD=0.9995, epsilon=1e-8, granularity="tensor"
    )
    assert make_settings(method="linear").parameters == LinearOptions(weight=1.0, normalize=True)
    assert (settings.dtype, settings.max_shard_size, settings.tokenizer) == (None, "5GB", "union")
    assert (settings.overwrite, settings.threads, settings.show_pbar) == (False, None, False)
    assert settings.max_shard_nbytes == 5_000_000_000
    assert settings.n_threads == available_cpus() >= 1
    assert make_settings(threads=3).n_threads == 3
    with pytest.raises(FrozenInstanceError):
        settings.threads = 1
    with pytest.raises(FrozenInstanceError):
        settings.parameters.t = 0.1


def test_ends_are_included():
    for name in ("t", "DOT_THRESHOLD"):
        assert [make_settings(**{name: end}).options[name] for end in (0, 1, 0.0, 1.0)] == [0, 1, 0, 1]
    assert make_settings(epsilon=0).parameters.epsilon == 0


def test_numbers_of_numpy_become_plain_ones():
    """So that they can be written to YAML, and shown, as plain numbers."""
    found = make_settings(t=np.float64(0.25), DOT_THRESHOLD=np.float32(0.5), epsilon=np.float64(0)).parameters
    assert (found.t, found.DOT_THRESHOLD, found.epsilon) == (0.25, 0.5, 0)
    assert {type(found.t), type(found.DOT_THRESHOLD), type(found.epsilon)} == {float}
    assert make_settings(threads=np.int64(2)).threads == 2
    assert type(make_settings(pad_vocab_to_multiple_of=np.int64(64)).pad_vocab_to_multiple_of) is int
    weight = {"a": np.float32(0.5), "b": [np.int64(1), {"value": np.float64(2)}["value"]]}
    found = make_settings(method="linear", weight=weight).parameters.weight
    assert found == {"a": 0.5, "b": [1, 2.0]}
    assert yaml.safe_load(yaml.safe_dump(found)) == found


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [
        (1, 1),
        (5_000, 5_000),
        ("5GB", 5 * 10**9),
        ("5GiB", 5 * 2**30),
        ("1.5 KB", 1500),
        (" 2mb ", 2 * 10**6),
        ("7B", 7),
        ("1B", 1),
        ("3TiB", 3 * 2**40),
        ("0.1B", None),
        ("5", None),
    ],
)
def test_sizes(size, nbytes):
    assert parse_nbytes(size) == nbytes


def test_cpus_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    assert available_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


# --- each setting changes what happens ------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path, parents):
    """Merges with the given options and returns the child's tensors."""

    def merged(**options):
        merge(*parents, out=tmp_path / "child", overwrite=True, **options)
        return load_file(tmp_path / "child/model.safetensors")

    return merged


def test_effect_of_t(weights):
    results = [weights(t=t)["model.norm.weight"] for t in (0, 0.25, 0.5, 1)]
    assert np.array_equal(results[0], tiny_tensors(1)["model.norm.weight"])
    assert np.array_equal(results[-1], tiny_tensors(2)["model.norm.weight"])
    assert len({result.tobytes() for result in results}) == 4


def test_effect_of_the_threshold(tmp_path, parents):
    slerped = merge(*parents, out=tmp_path / "x")
    lerped = merge(*parents, out=tmp_path / "y", DOT_THRESHOLD=0)
    assert slerped.counts == {"slerp": 4}
    assert sum(lerped.counts.values()) == 4
    assert set(lerped.counts) <= {"lerp: nearly parallel", "lerp: nearly opposite"}


def test_effect_of_epsilon(tmp_path, parents):
    assert merge(*parents, out=tmp_path / "x", epsilon=1e3).counts == {"lerp: zero vector": 4}


def test_effect_of_dtype(weights):
    assert {tensor.dtype for tensor in weights().values()} == {np.dtype("float32")}
    assert {tensor.dtype for tensor in weights(dtype="float16").values()} == {np.dtype("float16")}


def test_effect_of_the_size_of_a_shard(tmp_path, parents):
    assert len(plan_merge(*parents).shards) == 1
    assert len(plan_merge(*parents, max_shard_size=150).shards) == 3
    assert len(plan_merge(*parents, max_shard_size="0.00015 MB").shards) == 3
    merge(*parents, out=tmp_path / "child", max_shard_size=150)
    assert "model-00003-of-00003.safetensors" in names_in(tmp_path / "child")


def test_effect_of_tokenizer(tmp_path, parents):
    write_json(parents[1] / "tokenizer.json", tokenizer_json() | {"version": "1.0 of b"})
    other = write_checkpoint(tmp_path / "models/c")
    write_json(other / "tokenizer.json", tokenizer_json() | {"version": "1.0 of c"})
    for setting, source in (("a", parents[0]), ("b", parents[1]), (str(other), other)):
        merge(*parents, out=tmp_path / "child", tokenizer=setting, overwrite=True)
        expected = (source / "tokenizer.json").read_bytes()
        assert (tmp_path / "child/tokenizer.json").read_bytes() == expected


def test_effect_of_config_overrides(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", config_overrides={"rope_theta": 5.5, "torch_dtype": None})
    config = json.loads((tmp_path / "child/config.json").read_text())
    assert config["rope_theta"] == 5.5
    assert "torch_dtype" not in config
    assert "rope_theta" in (tmp_path / "child/README.md").read_text()


def test_effect_of_follow_links(tmp_path, parents):
    """A private file instead of a licence, in a model's and in a third tokenizer's folder."""
    (tmp_path / "id_rsa").write_text("secret")
    third = write_checkpoint(tmp_path / "third")
    (third / "merges.txt").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(CheckpointError, match="links lead out of the model's folder"):
        merge(*parents, out=tmp_path / "child", tokenizer=str(third))
    (parents[0] / "LICENSE").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(CheckpointError, match=f"LICENSE -> {tmp_path / 'id_rsa'}"):
        merge(*parents, out=tmp_path / "child")
    assert not (tmp_path / "child").exists()
    merge(*parents, out=tmp_path / "child", tokenizer=str(third), follow_links=True)
    assert (tmp_path / "child/LICENSE").read_text() == (tmp_path / "child/merges.txt").read_text() == "secret"


def test_effect_of_overwrite(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", t=0)
    before = (tmp_path / "child/model.safetensors").read_bytes()
    merge(*parents, out=tmp_path / "child", t=1, overwrite=True)
    assert (tmp_path / "child/model.safetensors").read_bytes() != before
    (tmp_path / "child/notes").write_text("mine")
    with pytest.raises(OutputError, match="in the way: notes"):
        merge(*parents, out=tmp_path / "child", overwrite=True)
    merge(*parents, out=tmp_path / "child", overwrite="any")
    assert not (tmp_path / "child/notes").exists()


def test_effect_of_threads(tmp_path, parents, monkeypatch):
    asked = []

    class Pool(engine_threads.ThreadPoolExecutor):
        def __init__(self, workers, *arguments):
            asked.append(workers)
            super().__init__(workers, *arguments)

    monkeypatch.setattr(engine_threads, "ThreadPoolExecutor", Pool)
    for i, threads in enumerate((1, 3, None)):
        merge(*parents, out=tmp_path / f"{i}", threads=threads)
    assert asked[::2] == [n + READERS for n in (1, 3, available_cpus())]
    assert asked[1::2] == [WRITERS] * 3
    assert len({(tmp_path / f"{i}/model.safetensors").read_bytes() for i in range(3)}) == 1


def test_effect_of_the_memory_budget(parents):
    """For its effect on a merge of large tensors see tests/engine/test_executor.py."""
    assert plan_merge(*parents, memory_budget="1GB").memory.nbytes > 0
    with pytest.raises(SettingsError, match="memory_budget is too small"):
        plan_merge(*parents, memory_budget="1MB")


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize(("direct_io", "n_opened"), [("auto", 2), ("on", 2), ("off", 0)])
def test_effect_of_direct_io(tmp_path, parents, monkeypatch, direct_io, n_opened):
    opened, real = [], os.open

    def remember(path, flags, *arguments):
        opened.append(bool(flags & os.O_DIRECT))
        return real(path, flags, *arguments)

    monkeypatch.setattr(os, "open", remember)
    merge(*parents, out=tmp_path / "child", direct_io=direct_io)
    assert sum(opened) == n_opened


def test_yaml_reads_a_bare_on_and_off_as_booleans():
    for value in ("on", "off", "auto"):
        assert make_settings(direct_io=yaml.safe_load(value)).direct_io == value


def test_effect_of_the_progress_bar(tmp_path, parents, capsys):
    merge(*parents, out=tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    result = merge(*parents, out=tmp_path / "shown", show_pbar=True)
    shown = capsys.readouterr().err
    nbytes = sum(tensor.out.nbytes for tensor in result.plan.tensors)
    assert "merging: 100%" in shown
    assert f"{nbytes}/{nbytes}" in shown
    assert "B/s" in shown
