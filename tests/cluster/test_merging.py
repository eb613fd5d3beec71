"""Several ranks make one merged model: the bytes of one process, for every method and number of ranks."""

import numpy as np
import pytest

from fusion_slerp import CheckpointError, OutputError, merge
from fusion_slerp.api import prepare_merge
from fusion_slerp.cluster.merging import run_shared_merge
from fusion_slerp.cluster.sharing import shares
from fusion_slerp.output import child_files
from fusion_slerp.output.unfinished import find_unfinished
from tests.cluster.ranks_in_threads import run_ranks
from tests.every_method import WAYS, write_family
from tests.models import contents, names_in, tiny_tensors, write_checkpoint

TIMEOUT_S = 60.0
"""In which no rank is taken for lost: failures are found at once."""

LARGE = {f"model.layers.{i}.mlp.up_proj.weight": (1100, 1000) for i in range(2)}
"""Of several chunks: tensors that may be measured by another rank than the one that makes them."""


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Read-only."""
    return write_family(tmp_path_factory.mktemp("family"), more=LARGE, dtype="float16")


def shared(models, out, ranks, **options):
    prepared = ranks.on_all(lambda: prepare_merge(models, out, **options))
    return run_shared_merge(prepared, ranks)


def made_by(count, tmp_path, models, **options):
    """The files that some ranks make, and their results."""
    out = tmp_path / f"by {count}" / "child"
    ends = run_ranks(count, lambda ranks: shared(models, out, ranks, **options))
    assert [end.error for end in ends] == [None] * count
    assert names_in(out.parent) == ["child"]
    return contents(out), [end.value for end in ends]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_method_makes_the_same_bytes_from_one_large_file(tmp_path, family, way):
    """Other ranks measure some of its tensors."""
    call = family.call(way)
    merge(*call.models, out=tmp_path / "alone" / "child", **call.options)
    files, results = made_by(3, tmp_path, call.models, **call.options)
    assert files == contents(tmp_path / "alone" / "child")
    assert all(result.report == results[0].report for result in results)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_any_number_of_ranks_makes_the_same_files(tmp_path, family, count):
    options = {"t": 0.4, "max_shard_size": "1MB", "threads": 1}
    merge(*family.models[:2], out=tmp_path / "alone" / "child", **options)
    files, results = made_by(count, tmp_path, family.models[:2], **options)
    assert files == contents(tmp_path / "alone" / "child")
    assert {result.nbytes_made for result in results} == {results[0].plan.nbytes_written}


def test_other_ranks_measure_what_the_owner_of_a_large_file_comes_to_last(family):
    plan = prepare_merge(family.models[:2], "/nowhere/child", t=0.5).plan
    first, second = shares(plan, ["here"] * 2)
    assert (first.files, second.files) == ({0}, frozenset())
    assert set(second.measured) == first.elsewhere
    assert list(second.measured) == [*LARGE]


def test_what_a_rank_measures_for_another_is_read_twice_in_all(tmp_path, family):
    _, results = made_by(2, tmp_path, family.models[:2], t=0.5, threads=1)
    plan = results[0].plan
    assert {result.nbytes_read for result in results} == {2 * large_nbytes(plan) + small_nbytes(plan)}


def large_nbytes(plan):
    return sum(t.nbytes_in for t in plan.tensors if t.is_large)


def small_nbytes(plan):
    return sum(t.nbytes_in for t in plan.tensors if not t.is_large)


def test_a_bad_weight_ends_all_ranks_and_leaves_nothing(tmp_path):
    a = write_checkpoint(tmp_path / "models/a", tensors=tiny_tensors(0))
    tensors = tiny_tensors(1)
    tensors["model.norm.weight"][2] = np.nan
    b = write_checkpoint(tmp_path / "models/b", tensors=tensors)
    out = tmp_path / "out/child"
    options = {"t": 0.5, "max_shard_size": 100, "rank_timeout": TIMEOUT_S}
    first, second, third = run_ranks(3, lambda ranks: shared([a, b], out, ranks, **options))
    for end in (first, second, third):
        assert isinstance(end.error, CheckpointError)
        assert "model.norm.weight" in str(end.error)
    assert names_in(tmp_path) == ["models"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_one_rank_ends_all_and_the_rest_is_resumed(tmp_path, family, monkeypatch, rank):
    """Injected: on this machine all ranks write to one disk."""
    merge(*family.models[:2], out=tmp_path / "alone" / "child", t=0.5, max_shard_size="1MB")
    real = child_files.ShardWriter.finish

    def finish(self, shard):
        if shard in failing:
            raise OutputError("cannot write the merged model's weights") from OSError(28, "No space left")
        real(self, shard)

    models, out = family.models[:2], tmp_path / "out" / "child"
    options = {"t": 0.5, "max_shard_size": "1MB", "rank_timeout": TIMEOUT_S}
    plan = prepare_merge(models, out, **options).plan
    failing = {max(shares(plan, ["here"] * 2)[rank].files)}
    monkeypatch.setattr(child_files.ShardWriter, "finish", finish)
    for end in run_ranks(2, lambda ranks: shared(models, out, ranks, **options)):
        assert isinstance(end.error, OutputError)
    monkeypatch.undo()
    assert not out.exists()
    left = find_unfinished(out)
    ends = run_ranks(3, lambda ranks: shared(models, out, ranks, **options))
    assert [end.error for end in ends] == [None] * 3
    assert {end.value.n_resumed for end in ends} == {len(left.finished) if left else 0}
    assert contents(out) == contents(tmp_path / "alone" / "child")
