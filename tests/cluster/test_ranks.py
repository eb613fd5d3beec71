"""One process works, or all do, and all learn what came of it, whatever that is."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore

from fusion_slerp.cluster.failures import is_shown_by_rank_0
from fusion_slerp.cluster.messages import Messages
from fusion_slerp.cluster.ranks import ALONE
from fusion_slerp.cluster.together import Together
from fusion_slerp.errors import CheckpointError, OutputError, Problem
from tests.cluster.ranks_in_threads import run_ranks

HOSTS = ("first", "second", "third")
DAMAGED = Problem(CheckpointError, "damaged", (("file", "x"),), "download it again")


def fail(error: BaseException) -> None:
    raise error


def fail_on(rank, ranks, error):
    return ranks.on_all(lambda: fail(error) if ranks.rank == rank else ranks.rank)


def wait_forever(ranks):
    with ranks.work() as together:
        together.wait_until(lambda: False)


def test_one_process_works_without_ado():
    assert ALONE.on_first(lambda: 1) == ALONE.on_all(lambda: 1) == 1
    assert ALONE.share_of_threads(8) == 8


def test_rank_0_works_and_all_have_its_result():
    """More than once, as nothing may be left over."""
    done = []

    def work(ranks):
        return [
            ranks.on_first(lambda: done.append(ranks.rank) or {"value": 7}),
            ranks.on_first(lambda: done.append(ranks.rank) or 8),
        ]

    assert [end.value for end in run_ranks(3, work)] == [[{"value": 7}, 8]] * 3
    assert done == [0, 0]


def test_each_rank_has_its_own_result():
    assert [end.value for end in run_ranks(3, lambda r: r.on_all(lambda: r.rank))] == [0, 1, 2]


def test_work_may_be_in_pieces():
    def work(ranks):
        return ranks.on_all(lambda: ranks.on_first(lambda: ranks.rank) + ranks.on_all(lambda: ranks.rank))

    assert [end.value for end in run_ranks(2, work)] == [0, 1]


def test_a_result_may_be_larger_than_an_entry_of_the_store(monkeypatch):
    monkeypatch.setattr("fusion_slerp.cluster.messages.MAX_NBYTES", 100)
    result = list(range(1000))
    assert [end.value for end in run_ranks(2, lambda r: r.on_first(lambda: result))] == [result] * 2


def test_a_value_that_is_taken_leaves_nothing(monkeypatch):
    monkeypatch.setattr("fusion_slerp.cluster.messages.MAX_NBYTES", 100)
    store = HashStore()
    left, large = Messages(store), list(range(1000))
    before = store.num_keys()
    for value in (1, large):
        left.put("name", value)
        assert left.take("name") == value
        assert store.num_keys() == before


def test_an_error_of_rank_0_is_raised_on_all_ranks():
    ends = run_ranks(3, lambda r: r.on_first(lambda: fail(DAMAGED.error())), HOSTS)
    assert [type(end.error) for end in ends] == [CheckpointError] * 3
    assert str(ends[0].error) == "damaged\n  file: x\nFix: download it again"
    for end in ends[1:]:
        assert str(end.error) == "damaged\n  file: x\n  rank: 0, on first\nFix: download it again"
    assert [is_shown_by_rank_0(end.error) for end in ends] == [False, True, True]


def test_an_unforeseen_error_is_named_on_the_other_ranks():
    ends = run_ranks(2, lambda r: r.on_first(lambda: fail(ValueError("two\nlines"))), HOSTS[:2])
    assert isinstance(ends[0].error, ValueError)
    assert isinstance(ends[1].error, OutputError)
    assert "rank: 0, on first\n  found: ValueError: two\nFix: " in str(ends[1].error)


def test_an_error_that_cannot_be_sent_is_named_as_well():
    odd = Problem(CheckpointError, "odd", (("value", lambda: None),), "")
    ends = run_ranks(2, lambda r: r.on_first(lambda: fail(odd.error())))
    assert isinstance(ends[0].error, CheckpointError)
    assert "found: CheckpointError: odd" in str(ends[1].error)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_an_error_of_one_rank_ends_all(rank):
    ends = run_ranks(3, lambda r: fail_on(rank, r, DAMAGED.error()), HOSTS)
    for k, end in enumerate(ends):
        assert isinstance(end.error, CheckpointError)
        assert (f"rank: {rank}, on {HOSTS[rank]}" in str(end.error)) == (k != rank)
        assert is_shown_by_rank_0(end.error) == (k != 0)


def test_the_same_error_of_all_ranks_is_that_of_each():
    """As when a model does not exist."""
    ends = run_ranks(3, lambda r: r.on_all(lambda: fail(DAMAGED.error())))
    assert {str(end.error) for end in ends} == {"damaged\n  file: x\nFix: download it again"}
    assert [is_shown_by_rank_0(end.error) for end in ends] == [False, True, True]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_is_interrupted_before_all_are_here_ends_the_others(rank, monkeypatch):
    arrive = Together._arrive

    def interrupted(self):
        arrive(self) if self.ranks.rank != rank else fail(KeyboardInterrupt())

    monkeypatch.setattr(Together, "_arrive", interrupted)
    ends = run_ranks(3, wait_forever, HOSTS)
    for k, end in enumerate(ends):
        if k == rank:
            assert isinstance(end.error, KeyboardInterrupt)
        else:
            assert isinstance(end.error, OutputError)
            assert f"rank: {rank}, on {HOSTS[rank]}\n  found: KeyboardInterrupt\n" in str(end.error)


def test_ranks_of_one_machine_share_its_threads():
    ends = run_ranks(3, lambda r: [r.share_of_threads(n) for n in (8, 1)], ("one", "two", "two"))
    assert [end.value for end in ends] == [[8, 1], [4, 1], [4, 1]]
