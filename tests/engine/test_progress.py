"""Progress: bytes by pass, honest time left, a bar, and JSON lines."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from fusion_slerp import merge
from fusion_slerp.engine import event_lines
from fusion_slerp.engine.progress import following
from fusion_slerp.engine.tally import Tally


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self):
        return self.now


def test_the_time_left_counts_each_pass_at_its_own_speed():
    clock = Clock()
    tally = Tally({"measuring": 1000, "merging": 1000}, clock=clock)
    assert (tally.rate, tally.left_s) == (None, None)
    for _ in range(5):
        clock.now += 1
        tally.add(100, "measuring", "x")  # 100 bytes a second
        clock.now += 1
        tally.add(10, "merging", "x")  # 10 bytes a second
    assert tally.done == 550
    assert tally.left_s == pytest.approx(500 / 100 + 950 / 10)
    assert (tally.doing, tally.subject) == ("merging", "x")


def test_a_pass_that_has_not_begun_counts_at_the_mean_speed():
    clock = Clock()
    tally = Tally({"measuring": 100, "merging": 300}, clock=clock)
    clock.now = 2
    tally.add(100, "measuring")
    assert tally.left_s == pytest.approx(6)


def test_speeds_follow_a_disk_that_slows_down():
    clock = Clock()
    tally = Tally({"merging": 100_000}, clock=clock)
    for nbytes in (100,) * 60 + (10,) * 600:
        clock.now += 1
        tally.add(nbytes, "merging")
    assert tally.rate == pytest.approx(10, rel=0.01)


def test_totals_grow_with_further_passes_and_shrink_to_what_was_needed():
    tally = Tally({"measuring": 10, "merging": 10}, {"merging": 4})
    assert (tally.done, tally.total) == (4, 20)
    tally.add(15, "measuring")
    assert tally.total == 25
    tally.end()
    assert tally.total == tally.done == 19


def events(text):
    return [json.loads(line) for line in text.splitlines()]


def check_events(lines):
    """The order and the sums that docs/progress.md promises."""
    assert all(line["format"] == event_lines.FORMAT for line in lines)
    begun = [line for line in lines if line["event"] in ("start", "progress")]
    for before, after in pairwise(begun):
        if after["event"] == "start":
            assert before["done_bytes"] == before["total_bytes"]
        else:
            assert before["done_bytes"] <= after["done_bytes"] <= after["total_bytes"]
            assert sum(each["done"] for each in after["passes"].values()) == after["done_bytes"]
    assert begun[0]["event"] == "start"
    assert begun[-1]["done_bytes"] == begun[-1]["total_bytes"]


def test_json_lines_of_a_merge(tmp_path, parents, capsys, monkeypatch):
    monkeypatch.setattr("fusion_slerp.engine.progress.INTERVAL_S", 0)
    result = merge(*parents, out=tmp_path / "child", show_pbar="json", max_shard_size=200)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = events(shown.err)
    check_events(lines)
    assert lines[0]["task"] == "merge"
    assert lines[0]["files"] == [shard.file_name for shard in result.plan.shards]
    assert sorted(line["name"] for line in lines if line["event"] == "file") == lines[0]["files"]
    assert {line["pass"] for line in lines if line["event"] == "progress"} == {"merging"}
    names = {tensor.out.name for tensor in result.plan.tensors}
    assert {line["subject"] for line in lines if line["event"] == "progress"} <= names


def test_lines_are_rare(capsys):
    with following("merge", {"merging": 10_000}, "json") as shown:
        for _ in range(10_000):
            shown(1, "merging", "x")
    n_lines = len(events(capsys.readouterr().err))
    assert n_lines < 1000


def test_a_bar_names_the_pass_and_the_layer(capsys, monkeypatch):
    with following("merge", {"measuring": 1000, "merging": 500}, True) as shown:
        shown(500, "measuring", "model.layers.7.mlp.up_proj.weight")
        shown(500, "merging", "model.layers.7.mlp.up_proj.weight")
    text = capsys.readouterr().err
    assert "measuring: " in text
    assert "merging: 100%" in text
    assert "1.00k/1.00k" in text


def test_a_failure_ends_without_a_full_bar(capsys):
    def fails():
        with following("merge", {"merging": 100}, "json") as shown:
            shown(10, "merging")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    lines = events(capsys.readouterr().err)
    assert [line["event"] for line in lines] == ["start"]


def test_a_closed_stream_costs_no_merge(monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    event_lines.write_event("note", message="x")
