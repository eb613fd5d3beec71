"""What holds for every registered method: it resumes to the same bytes, is verified and is made again."""

import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from torch import equal

from fusion_slerp import merge, plan_merge, verify
from fusion_slerp.api import merge_into_memory
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.cli.request import Request
from fusion_slerp.engine import progress as progress_module
from fusion_slerp.output.staging import Staging
from fusion_slerp.planning.amounts import nbytes_processed
from tests.every_method import Call, Family, each_way, write_family
from tests.models import contents, names_in

DOWN = "model.layers.{}.mlp.down_proj.weight"
SHARDS = {"max_shard_size": 150, "threads": 1}
"""A file for each tensor or two."""


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    """Three models and their base; read-only."""
    return write_family(tmp_path_factory.mktemp("family"))


def merged(call: Call, out: Path, **more) -> dict[str, bytes]:
    merge(*call.models, out=out, **{**call.options, **more})
    return contents(out)


# --- one result, however it is reached ---


@each_way
def test_stopped_after_any_file_and_resumed_it_has_the_same_bytes(tmp_path, family, way, monkeypatch):
    call = family.call(way)
    expected = merged(call, tmp_path / "expected/child", **SHARDS)
    n_files = sum(name.endswith(".safetensors") for name in expected)
    assert n_files >= 4
    real = Staging.add
    for n in range(1, n_files):
        calls = itertools.count()

        def add(self, file, n=n, calls=calls):
            if next(calls) >= n:
                raise KeyboardInterrupt
            real(self, file)

        monkeypatch.setattr(Staging, "add", add)
        with pytest.raises(KeyboardInterrupt):
            merged(call, tmp_path / f"{n}/child", **SHARDS)
        monkeypatch.undo()
        assert names_in(tmp_path / f"{n}") == [".child.partial"]
        result = merge(*call.models, out=tmp_path / f"{n}/child", **call.options, **SHARDS)
        assert result.n_resumed == n
        assert contents(tmp_path / f"{n}/child") == expected


KILLED = """
import json, os, signal, sys
from fusion_slerp.output.staging import Staging
real = Staging.add
def add(self, file):
    real(self, file)
    if len(self.finished) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Staging.add = add
from fusion_slerp import merge
merge(*sys.argv[2:], out=sys.argv[1], **json.loads(input()))
"""


@pytest.mark.long
@each_way
def test_killed_and_resumed_it_has_the_same_bytes(tmp_path, family, way):
    call = family.call(way)
    options = json.dumps(call.options | SHARDS, default=str)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "child"), *map(str, call.models)]
    done = subprocess.run(words, input=options, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert merge(*call.models, out=tmp_path / "child", **call.options, **SHARDS).n_resumed >= 2
    assert contents(tmp_path / "child") == merged(call, tmp_path / "expected/child", **SHARDS)


@each_way
def test_on_disk_as_in_memory_and_for_any_number_of_threads(tmp_path, family, way):
    call = family.call(way)
    in_memory, report = merge_into_memory(*call.models, **call.options)
    for threads in (1, 2, 3):
        result = merge(*call.models, out=tmp_path / f"{threads}", threads=threads, **call.options)
        made = load_torch(tmp_path / f"{threads}/model.safetensors")
        assert made.keys() == in_memory.keys()
        assert all(equal(made[name], in_memory[name]) for name in made)
        assert [each._replace(digest=None) for each in result.report] == list(report)


# --- verified ---


@each_way
def test_verified_and_made_again(tmp_path, way):
    family = write_family(tmp_path)
    merge(*family.call(way).models, out=tmp_path / "child", **family.call(way).options)
    result = verify(tmp_path / "child", inputs=True, recompute="all")
    assert result.ok, str(result)
    assert result.models == len(family.call(way).named)


@each_way
def test_source_models_that_were_moved_are_named_by_label(tmp_path, family, way):
    call = family.call(way)
    merged(call, tmp_path / "child")
    result = verify(tmp_path / "child", inputs=True, models=call.named)
    assert result.ok, str(result)
    proven = result.measured + len(result.recomputed)
    assert proven >= result.n_tensors, "each tensor was measured or merged again"


@each_way
def test_what_was_measured_is_in_the_report(tmp_path, family, way):
    """Verification measures again what the report has norms of, if there are no more sources than two."""
    call = family.call(way)
    merged(call, tmp_path / "child")
    rows = json.loads((tmp_path / "child/merge_report.json").read_text())["tensors"]
    result = verify(tmp_path / "child", inputs=True, models=call.named)
    with_norms = [row for row in rows if "norms" in row]
    assert all(set(row["norms"]) <= set(call.named) for row in with_norms)
    assert result.measured == (len(with_norms) if list(call.named) == ["a", "b"] else 0)
    assert way.method.is_in_span or not with_norms


@each_way
def test_a_changed_weight_of_any_source_model_is_found(tmp_path, way):
    family = write_family(tmp_path / "models")
    call = family.call(way)
    merged(call, tmp_path / "models/child")
    for label, folder in call.named.items():
        file = folder / "model.safetensors"
        before = file.read_bytes()
        tensors = load_file(file)
        tensors[DOWN.format(1)][1] *= -1  # the norm stays
        save_file(tensors, file, {"format": "pt"})
        assert verify(tmp_path / "models/child").ok
        result = verify(tmp_path / "models/child", inputs=True)
        assert {each.tensor for each in result.deviations} == {DOWN.format(1)}, label
        file.write_bytes(before)
    assert verify(tmp_path / "models/child", inputs=True).ok


# --- bytes, passes and progress ---


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Family:
    """Models with a matrix of three chunks; read-only."""
    shape = (513, 2 * CHUNK_ELEMENTS // 512)
    return write_family(tmp_path_factory.mktemp("large"), more={"model.large": shape})


@pytest.mark.long
@each_way
def test_the_bytes_and_passes_of_large_tensors_are_as_planned(tmp_path, large, way, monkeypatch):
    call, done = large.call(way), []
    real = progress_module.progress

    class Counting(progress_module.Progress):
        def __call__(self, nbytes, doing, subject=""):
            done.append(nbytes)

    @contextmanager
    def counted(plans, finished):
        with real(plans, finished):
            yield Counting()

    monkeypatch.setattr("fusion_slerp.output.child_files.progress", counted)
    result = merge(*call.models, out=tmp_path / "child", **call.options)
    plan = result.plan
    assert plan.nbytes_read <= result.nbytes_read <= plan.nbytes_read_most
    total = sum(nbytes_processed(tensor, plan.settings) for tensor in plan.tensors)
    assert sum(done) == total or (sum(done) < total and not way.method.is_in_span)
    assert verify(tmp_path / "child", recompute="all", models=call.named).ok


# --- said alike everywhere ---


@each_way
def test_the_line_that_repeats_it_and_its_config_make_the_same(tmp_path, family, way, monkeypatch):
    from typer.testing import CliRunner

    from fusion_slerp.cli.app import app

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    call = family.call(way)
    expected = merged(call, tmp_path / "expected/child")
    options = {name: value for name, value in call.options.items() if name != "base"}
    base = str(call.options["base"]) if "base" in call.options else None
    request = Request(tuple(map(str, call.models)), base, options)
    (tmp_path / "recipe.yaml").write_text(request.recipe("elsewhere"))
    for words in (
        shlex.split(request.command(str(tmp_path / "line/child")))[1:],
        ["merge", tmp_path / "recipe.yaml", "-o", tmp_path / "recipe/child"],
    ):
        done = CliRunner().invoke(app, [str(word) for word in words], prog_name="fusion_slerp")
        assert done.exit_code == 0, done.stderr
    assert contents(tmp_path / "line/child") == expected
    assert contents(tmp_path / "recipe/child") == expected


@each_way
def test_the_call_in_its_card_makes_the_same(tmp_path, family, way, monkeypatch):
    call = family.call(way)
    expected = merged(call, tmp_path / "expected/child")
    text = expected["README.md"].decode()
    code = re.search(r"```python\n(from fusion_slerp import merge\n.*?)```", text, re.DOTALL)
    assert code is not None
    (tmp_path / "again").mkdir()
    for label, folder in call.named.items():
        assert re.search(rf"^\| {label} \| {folder.name} \| local \|", text, re.MULTILINE)
        (tmp_path / "again" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path / "again")
    exec(code[1], {})
    assert contents(tmp_path / "again/child") == expected


@each_way
def test_the_plan_has_values_of_the_models_alone(family, way):
    call = family.call(way)
    plan = plan_merge(*call.models, **call.options)
    per_model = [
        value for tensor in plan.tensors for value in tensor.values.values() if isinstance(value, dict)
    ]
    assert all(list(value) == list(call.named)[: len(call.models)] for value in per_model)
