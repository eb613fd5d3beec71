"""`--json-progress`: one JSON object a line on standard error, and nothing else there."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save_file

from tests.cli.conftest import DEMO
from tests.models import tiny_tensors


def events(ended):
    return [json.loads(line) for line in ended.err.splitlines()]


def kinds(ended):
    return [line["event"] for line in events(ended)]


def test_merge(command, parents, tmp_path):
    ended = command("merge", *parents, "-o", tmp_path / "child", "--json-progress", "--json")
    assert ended.code == 0
    assert ended.json["out"] == str(tmp_path / "child")
    found = kinds(ended)
    assert (found[0], found[-1]) == ("start", "done")
    assert found.count("file") == 1
    assert events(ended)[-1]["out"] == str(tmp_path / "child")


def test_an_evaluation_says_how_far_it_is(command):
    text = f"t={DEMO / 'texts' / 'plays.txt'}"
    ended = command("evaluate", DEMO / "plays", "--text", text, "--max-tokens", 300, "--json-progress")
    found = [line for line in events(ended) if line["event"] == "evaluating"]
    assert found[0] == {"format": 1, "event": "evaluating", "model": "plays"}
    fields = {"text": "t", "done_tokens": 299, "total_tokens": 299}
    assert found[-1] == {**found[0], **fields}
    assert kinds(ended)[-1] == "done"


def test_warnings_and_failures_are_lines(command, parents, tmp_path):
    ended = command("merge", *parents, "-o", parents[0], "--json-progress")
    assert ended.code == 2
    (line,) = events(ended)
    assert line["event"] == "failed"
    assert line["error"]["problems"]
    tensors = tiny_tensors(5)
    tensors["model.norm.weight"][2] = np.inf
    save_file(tensors, parents[1] / "model.safetensors", {"format": "pt"})
    t = "[{filter: nothing, value: 1}, {value: 0.5}]"
    ended = command("merge", *parents, "-t", t, "-o", tmp_path / "child", "--json-progress")
    assert ended.code == 1
    assert kinds(ended)[-1] == "failed"
    assert "warning" in kinds(ended) or "start" in kinds(ended)


def test_verify_and_inspect(command, parents, tmp_path):
    command("merge", *parents, "-o", tmp_path / "child")
    sources = ("--a", parents[0], "--b", parents[1])
    ended = command("verify", tmp_path / "child", "--inputs", *sources, "--json-progress")
    tasks = [line["task"] for line in events(ended) if line["event"] == "start"]
    assert tasks == ["verify", "verify inputs"]
    assert events(ended)[-1]["ok"] is True
    ended = command("inspect", *parents, "--json-progress", "--json")
    assert ended.json["can_be_merged"] is True
    assert kinds(ended) == ["start", "progress", "done"]


def test_show_pbar_off_leaves_messages(command, parents, tmp_path):
    ended = command("merge", *parents, "-o", tmp_path / "child", "--json-progress", "--no-show-pbar")
    assert kinds(ended) == ["done"]
