"""Several processes: one works and the others learn what came of it, whatever that is."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusion_slerp import OutputError
from fusion_slerp.fusion_bench_plugin.ranks import Outcome, Ranks
from fusion_slerp.settings.merge_settings import make_settings

SCRIPT = Path(__file__).with_name("ranks_script.py")


TOGETHER = (
    "one_after_the_other",
    "all_at_once",
    "fail_as_planned",
    "fail_unforeseen",
    "fail_to_be_sent",
    "fail_on_rank_0_of_all",
    "fail_on_rank_1_of_all",
)
"""Cases that leave both processes in order."""


@pytest.fixture
def start(tmp_path):
    """Starts both processes for some cases."""
    processes = []

    def run(*cases):
        for rank in range(2):
            command = [sys.executable, str(SCRIPT), str(rank), str(tmp_path / "meeting"), *cases]
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


def test_all_ranks_have_the_result_or_the_error(start):
    first, second = (dict(zip(TOGETHER, printed(each), strict=True)) for each in start(*TOGETHER))
    assert first["one_after_the_other"] == {"value": [{"value": 7}, 8, 1]}
    assert second["one_after_the_other"] == {"value": [{"value": 7}, 8, 0]}
    assert [each["all_at_once"]["value"] for each in (first, second)] == [0, 1]
    for case in ("fail_as_planned", "fail_on_rank_0_of_all"):
        assert first[case] == {**second[case], "is_of_first": False}
        assert second[case]["is_of_first"]
    assert first["fail_as_planned"]["error"] == [
        "CheckpointError",
        "damaged\n  file: x\nFix: download it again",
    ]
    assert first["fail_unforeseen"]["error"] == ["ValueError", "two\nlines"]
    kind, message = second["fail_unforeseen"]["error"]
    assert kind == "OutputError"
    assert message.startswith("the merge failed on rank 0\n  found: ValueError: two\\nlines\nFix: ")
    assert first["fail_to_be_sent"]["error"][0] == "CheckpointError"
    assert "found: CheckpointError: odd" in second["fail_to_be_sent"]["error"][1]
    assert first["fail_on_rank_1_of_all"] == {"value": 0}
    assert second["fail_on_rank_1_of_all"] == {"error": ["CheckpointError", "second"], "is_of_first": False}


def test_a_rank_0_that_dies_ends_the_others(start):
    ((result,),) = (printed(process) for process in start("die")[1:])
    kind, message = result["error"]
    assert kind == "OutputError"
    assert message.startswith("rank 0 ended before the merge was finished")


def test_a_rank_that_waits_heeds_an_interruption(start):
    _, second = start("wait_to_be_interrupted")
    assert second.stdout.readline() == "ready\n"
    second.send_signal(signal.SIGINT)
    assert printed(second)[0]["error"][0] == "KeyboardInterrupt"


@pytest.mark.parametrize("fabric", [None, SimpleNamespace(world_size=1), SimpleNamespace(world_size=2)])
def test_one_process_works_without_ado(fabric):
    """The last has not met any other."""
    ranks = Ranks(fabric)
    assert ranks.on_first(lambda: 1) == ranks.on_all(lambda: 1) == 1
    settings = make_settings(t=0.5)
    assert ranks.share_of(settings) is settings


def test_ranks_that_merge_at_once_share_the_processors_and_show_one_bar(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for rank in (0, 1):
        ranks = Ranks(SimpleNamespace(world_size=2, global_rank=rank))
        share = ranks.share_of(make_settings(t=0.5, show_pbar=True))
        assert share.threads == max(1, make_settings(t=0.5).n_threads // 2)
        assert share.show_pbar == (rank == 0)
        assert ranks.share_of(make_settings(t=0.5, threads=5)).threads == 5


def test_other_ranks_are_quiet(monkeypatch, caplog):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    caplog.set_level(logging.INFO, logger="fusion_slerp")
    log = logging.getLogger("fusion_slerp.somewhere")
    for rank in (0, 1):
        with Ranks(SimpleNamespace(world_size=2, global_rank=rank)).quiet():
            log.warning("from %d", rank)
    log.warning("later")
    assert caplog.messages == ["from 0", "later"]


def test_an_outcome_is_a_result_or_an_error():
    assert Outcome(3).get() == 3
    with pytest.raises(OutputError):
        Outcome(error=OutputError("x")).get()
