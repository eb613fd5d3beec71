"""The simulation of a shared merge: sizes of published models, and times that plain divisions give."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import inf, prod
from pathlib import Path

import pytest

from fusion_slerp.cluster.sharing import shares

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # its scripts import each other so
from cluster_model import predict  # type: ignore[import-not-found]
from cluster_plans import MODELS, Dense, plans_of  # type: ignore[import-not-found]
from cluster_running import Machine, Phase, run  # type: ignore[import-not-found]

SMALL = Dense("llama", n_layers=6, hidden=4096, intermediate=11008, key_value=1024, vocabulary=32000)
QUICK = Machine(
    read=2.0,
    write=1.0,
    network=inf,
    total_read=inf,
    total_write=inf,
    measure_ns=0.0,
    combine_ns=0.0,
    read_cpu=0.0,
    cached_cpu=0.0,
    write_cpu=0.0,
    task_us=0.0,
    start_s=0.0,
    plan_us=0.0,
    file_s=0.0,
    end_s=0.0,
    spread_s=0.0,
)
"""Nothing but storage takes time."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return plans_of(SMALL, tmp_path_factory.mktemp("headers"))("500MB")


@pytest.mark.parametrize(("name", "n"), [("72B", 72.706e9), ("405B", 405.853e9), ("1T", 1026.4e9)])
def test_the_shapes_have_the_published_number_of_parameters(name, n):
    assert sum(map(prod, MODELS[name].shapes().values())) == pytest.approx(n, rel=1e-4)


def test_headers_take_no_space(tmp_path):
    plans_of(SMALL, tmp_path)
    files = list(tmp_path.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) > 1e9
    assert sum(file.stat().st_blocks * 512 for file in files) < 1e6


def test_one_node_reads_and_writes_in_turn(plan):
    found = predict(plan, QUICK)
    n_out = sum(tensor.out.nbytes for tensor in plan.tensors) / 1e9
    at_once, in_turn = 2 * n_out / QUICK.read, 2 * n_out / QUICK.read + n_out / QUICK.write
    assert at_once < found.seconds <= in_turn
    assert found.seconds == pytest.approx(in_turn, rel=0.2)  # writing goes on for 16 MB during the next read


def test_everything_is_read_once_unless_ranks_measure_for_others(plan):
    on = replace(QUICK, nodes=16)
    alone, helped = predict(plan, on), predict(plan, on, shares(plan, ["one machine"] * 16))
    assert alone.read == pytest.approx(plan.nbytes_in / 1e9)
    assert helped.n_helped > 0
    assert helped.read > alone.read


def test_nodes_with_disks_of_their_own_divide_the_time(plan):
    one = predict(plan, QUICK).seconds
    two = predict(plan, replace(QUICK, nodes=2)).seconds
    assert one / 2 <= two < 0.65 * one


def test_ranks_of_one_node_share_its_disk(plan):
    one = predict(plan, replace(QUICK, slowdown=1.0)).seconds
    two = predict(plan, replace(QUICK, slowdown=1.0, ranks_per_node=2)).seconds
    assert two > 0.9 * one


@pytest.mark.parametrize(("read", "write"), [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0)])
@pytest.mark.parametrize("slowdown", [0.0, 1.0, 2.5])
def test_reading_and_writing_at_once_slow_each_other_down(slowdown, read, write):
    on = replace(QUICK, read=1.0, write=1.0, slowdown=slowdown)
    seconds, _ = run([[Phase(read=read, write=write, buffer=0.0)]], on)
    assert seconds == pytest.approx(max(read, write) + slowdown * min(read, write))


def test_no_number_of_nodes_reads_faster_than_the_file_system(plan):
    limited = replace(QUICK, nodes=8, total_read=1.0)
    found = predict(plan, limited)
    assert found.seconds >= plan.nbytes_in / 1e9 / limited.total_read
    assert max(found.limits, key=found.limits.__getitem__) == "shared reading"


def test_processors_limit_what_storage_does_not(plan):
    fast = replace(QUICK, read=inf, write=inf, combine_ns=1.0, threads=1)
    n = sum(tensor.out.n_elements for tensor in plan.tensors)
    assert predict(plan, fast).seconds == pytest.approx(n * 1e-9)
    assert predict(plan, replace(fast, threads=4)).seconds == pytest.approx(n * 1e-9 / 4)


def test_a_rank_waits_for_what_another_measures():
    work = [[Phase(fixed=1.0, needs="x")], [Phase(fixed=2.0, gives="x")]]
    seconds, limits = run(work, replace(QUICK, nodes=2))
    assert seconds == pytest.approx(3.0)
    assert limits["waiting"] == pytest.approx(2.0)
