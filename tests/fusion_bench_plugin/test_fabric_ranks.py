"""The processes of a Fabric: they find each other, share a machine, and end together."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore
from transformers.utils import logging as transformers_logging

from fusion_slerp.cluster.ranks import ALONE, TIMEOUT_S, Ranks
from fusion_slerp.cluster.together import ENDED
from fusion_slerp.fusion_bench_plugin.fabric_ranks import quiet, ranks_of, share_of
from fusion_slerp.settings.merge_settings import make_settings
from tests.cluster.ranks_in_threads import run_ranks
from tests.rank_processes import free_port


@pytest.fixture
def start():
    """Starts both processes for some cases."""
    processes = []

    def run(*cases):
        port = str(free_port())
        for rank in range(2):
            command = [
                sys.executable,
                "-m",
                "tests.fusion_bench_plugin.ranks_script",
                str(rank),
                port,
                *cases,
            ]
            processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            )
        return processes

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def printed(process):
    """What a process printed for each of its cases, as it ends."""
    return [json.loads(line) for line in process.stdout.read().splitlines()]


@pytest.mark.long
def test_the_processes_of_a_fabric_find_each_other(start):
    first, second = map(printed, start("work", "fail"))
    assert [first[0], second[0]] == [{"value": [7, 0]}, {"value": [7, 1]}]
    assert first[1] == {"error": ["CheckpointError", "damaged"], "is_shown": False}
    assert second[1] == {"error": ["CheckpointError", "damaged"], "is_shown": True}


@pytest.mark.long
def test_a_rank_0_that_dies_ends_the_others(start):
    ((result,),) = (printed(process) for process in start("die")[1:])
    kind, message = result["error"]
    assert kind == "OutputError"
    assert message.startswith("a process of the job is lost\n  rank: 0, on ")
    assert not result["is_shown"]


@pytest.mark.long
def test_a_rank_that_waits_heeds_an_interruption(start):
    """Rank 0, which cannot, is ended."""
    first, second = start("wait_to_be_interrupted")
    assert second.stdout.readline() == "ready\n"
    second.send_signal(signal.SIGINT)
    assert printed(second)[0]["error"][0] == "KeyboardInterrupt"
    assert first.wait() == ENDED


@pytest.mark.parametrize("fabric", [None, SimpleNamespace(world_size=1), SimpleNamespace(world_size=2)])
def test_one_process_is_alone(fabric):
    """The last has not met any other."""
    ranks = ranks_of(SimpleNamespace(fabric=fabric))
    assert ranks is ranks_of(None) is ALONE
    settings = make_settings(t=0.5)
    assert share_of(ranks, settings) is settings


def test_ranks_share_the_processors_of_their_machine_and_show_one_bar():
    def work(ranks):
        settings = make_settings(t=0.5, show_pbar=True)
        return share_of(ranks, settings), share_of(ranks, make_settings(t=0.5, threads=5)).threads

    ends = run_ranks(3, work, ("one", "one", "two"))
    n = make_settings(t=0.5).n_threads
    assert [end.value[0].threads for end in ends] == [max(1, n // 2), max(1, n // 2), n]
    assert [end.value[0].show_pbar for end in ends] == [True, False, False]
    assert [end.value[1] for end in ends] == [5, 5, 5]


@pytest.fixture
def with_bars():
    """As in a new process: a command that another test has run may have disabled them for good."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.enable_progress_bar()
    yield
    if not was_enabled:
        transformers_logging.disable_progress_bar()


@pytest.mark.usefixtures("with_bars")
def test_other_ranks_are_quiet(caplog):
    caplog.set_level(logging.INFO, logger="fusion_slerp")
    log = logging.getLogger("fusion_slerp.somewhere")
    for rank in (0, 1):
        with quiet(Ranks(None, rank, 2)):
            log.warning("from %d", rank)
            assert transformers_logging.is_progress_bar_enabled() == (rank == 0)
    log.warning("later")
    assert caplog.messages == ["from 0", "later"]
    assert transformers_logging.is_progress_bar_enabled()


def test_the_timeout_is_that_of_the_method(monkeypatch):
    fabric = SimpleNamespace(world_size=2, global_rank=0)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.distributed_c10d._get_default_store", HashStore)
    for method, timeout_s in ((SimpleNamespace(rank_timeout=5), 5), (object(), TIMEOUT_S)):
        assert ranks_of(SimpleNamespace(fabric=fabric, method=method)).timeout_s == timeout_s
