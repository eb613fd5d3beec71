"""Processes that are about to make different merges say so before anything is written."""

import pytest

from fusion_slerp import CheckpointError, MismatchError
from fusion_slerp.api import prepare_merge
from fusion_slerp.cluster.merging import run_shared_merge
from tests.cluster.ranks_in_threads import run_ranks
from tests.models import names_in, write_checkpoint

HOSTS = ("first", "second", "third")


def merge_on(ranks, models_of, out, **options_of):
    options = {name: value[ranks.rank] for name, value in options_of.items()}
    prepared = ranks.on_all(lambda: prepare_merge(models_of[ranks.rank], out, **options))
    return run_shared_merge(prepared, ranks)


@pytest.fixture
def pair(tmp_path):
    return [write_checkpoint(tmp_path / "models" / name, seed=k) for k, name in enumerate("ab")]


def test_another_setting_is_named_with_its_rank(tmp_path, pair):
    out = tmp_path / "out" / "child"
    ends = run_ranks(3, lambda r: merge_on(r, [pair] * 3, out, t=[0.5, 0.5, 0.4]), HOSTS)
    for end in ends:
        assert isinstance(end.error, MismatchError)
        assert "rank: 2, on third" in str(end.error)
        assert "settings.t: 0.5 on rank 0, 0.4 there" in str(end.error)
    assert names_in(tmp_path) == ["models"]


def test_another_model_is_named_with_its_file(tmp_path, pair):
    """As a cache with an older revision is."""
    elsewhere = [pair[0], write_checkpoint(tmp_path / "models" / "old" / "b", n_shards=2)]
    out = tmp_path / "out" / "child"
    ends = run_ranks(2, lambda r: merge_on(r, [pair, elsewhere], out, t=[0.5, 0.5]), HOSTS[:2])
    for end in ends:
        assert isinstance(end.error, MismatchError)
        assert "rank: 1, on second" in str(end.error)
        assert "parents.b.files.model" in str(end.error)


def test_a_model_may_be_in_another_place_on_another_machine(tmp_path, pair):
    import shutil

    elsewhere = [shutil.copytree(folder, tmp_path / "copies" / folder.name) for folder in pair]
    out = tmp_path / "out" / "child"
    ends = run_ranks(2, lambda r: merge_on(r, [pair, elsewhere], out, t=[0.5, 0.5]))
    assert [end.error for end in ends] == [None, None]


def test_a_model_that_one_machine_lacks_is_named_with_its_rank(tmp_path, pair):
    out = tmp_path / "out" / "child"
    lacking = [pair[0], tmp_path / "nowhere"]
    ends = run_ranks(2, lambda r: merge_on(r, [pair, lacking], out, t=[0.5, 0.5]), HOSTS[:2])
    for end in ends:
        assert isinstance(end.error, CheckpointError)
        assert str(tmp_path / "nowhere") in str(end.error)
    assert "rank: 1, on second" in str(ends[0].error)
    assert names_in(tmp_path) == ["models"]
