"""Which rank makes which files: all of them once, evenly by bytes, the same wherever it is computed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp.api import plan_merge
from fusion_slerp.cluster.sharing import _cost, _measuring, shares
from tests.every_method import write_family

LARGE = {f"model.layers.{i % 2}.extra_{i}.weight": (1100, 1000) for i in range(6)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Read-only."""
    return write_family(tmp_path_factory.mktemp("family"), n=2, more=LARGE, dtype="float16").models


@pytest.fixture(scope="module")
def one_file(models):
    return plan_merge(*models, t=0.5)


@pytest.fixture(scope="module")
def many_files(models):
    return plan_merge(*models, t=0.5, max_shard_size=3_000_000)


def loads(plan, shared):
    """The bytes that each rank moves."""
    by_name = {tensor.out.name: tensor for tensor in plan.tensors}
    result = []
    for share in shared:
        own = [t for t in plan.tensors if t.out.shard in share.files]
        made = sum(_cost(t, plan) for t in own)
        elsewhere = sum(_measuring(by_name[name], plan) for name in share.elsewhere)
        result.append(made - elsewhere + sum(_measuring(by_name[name], plan) for name in share.measured))
    return result


@given(st.integers(1, 40), st.sets(st.integers(0, 6)))
def test_every_file_has_one_maker_and_every_measure_one_taker(many_files, count, finished):
    shared = shares(many_files, ["here"] * count, finished)
    assert len(shared) == count
    made = [i for share in shared for i in share.files]
    assert sorted(made) == [i for i in range(len(many_files.shards)) if i not in finished]
    measured = [name for share in shared for name in share.measured]
    assert len(measured) == len(set(measured))
    assert set(measured) == {name for share in shared for name in share.elsewhere}
    own = {t.out.name: t.out.shard for t in many_files.tensors}
    for share in shared:
        assert not {own[name] for name in share.measured} & share.files
        assert {own[name] for name in share.elsewhere} <= share.files


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_the_shares_are_even(many_files, one_file, count):
    """No rank has more than an even share and one file; of one file, no more than cannot be divided."""
    for plan in (many_files, one_file):
        total = sum(_cost(t, plan) for t in plan.tensors)
        largest = max(
            sum(_cost(t, plan) for t in plan.tensors if t.out.shard == i) for i in range(len(plan.shards))
        )
        assert max(loads(plan, shares(plan, ["here"] * count))) <= total / count + largest
    making = sum(_cost(t, one_file) - _measuring(t, one_file) for t in one_file.tensors)
    total = sum(_cost(t, one_file) for t in one_file.tensors)
    one_tensor = max(_measuring(t, one_file) for t in one_file.tensors)
    assert (
        max(loads(one_file, shares(one_file, ["here"] * count)))
        <= max(making, total / count) + 2 * one_tensor
    )


def test_one_rank_does_everything(many_files):
    (share,) = shares(many_files, ["here"])
    assert share.files == frozenset(range(len(many_files.shards)))
    assert not share.measured
    assert not share.elsewhere


def test_nothing_is_left_to_do_where_all_files_are_finished(many_files):
    finished = range(len(many_files.shards))
    assert all(not any(share) for share in shares(many_files, ["here"] * 3, finished))


def test_what_is_only_copied_is_not_measured_elsewhere(models):
    plan = plan_merge(*models, t=0)
    assert all(not share.measured for share in shares(plan, ["here"] * 4))


def test_only_ranks_of_the_same_machine_measure_for_each_other(one_file):
    """The others would read what the maker must read anyway."""
    hosts = ["first", "second", "first", "third"]
    shared = shares(one_file, hosts)
    assert [bool(share.files) for share in shared] == [True, False, False, False]
    assert [bool(share.measured) for share in shared] == [False, False, True, False]
