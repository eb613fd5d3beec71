"""What is said when a merge stops, whenever that happens."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import typer

from fusion_slerp.cli.running import stops_cleanly
from fusion_slerp.interruption import Terminated


def stopped(target, capsys, happens):
    """The exit code and the message after something happened inside and Ctrl-C followed."""

    def merge():
        with stops_cleanly(target, "fusion_slerp merge a b"):
            happens()
            raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as caught:
        merge()
    return caught.value.exit_code, capsys.readouterr().err


def test_nothing_is_left(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = stopped(tmp_path / "child", capsys, lambda: None)
    assert code == 130
    assert message == (
        "\nStopped. Nothing was kept. child was not created.\nTo run it again:\n  fusion_slerp merge a b\n"
    )


def test_what_is_kept_is_named_with_both_ways_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Path(".child.partial/journal.jsonl")

    def finish_a_file():
        journal.parent.mkdir()
        first = {"journal": 1, "identity": {"files": {"x": "", "y": ""}}}
        second = {"file": "x", "nbytes": 1, "digest": "", "tensors": []}
        journal.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")

    code, message = stopped(tmp_path / "child", capsys, finish_a_file)
    assert code == 130
    assert message == (
        "\nStopped. child was not created.\nKept: 1 of 2 weight files, in\n  .child.partial\n"
        "To resume:\n  fusion_slerp merge a b\n"
        f"To remove it:\n  fusion_slerp clean {tmp_path / 'child'}\n"
    )


def test_a_child_that_was_just_published_is_said_to_be_complete(tmp_path, capsys):
    code, message = stopped(tmp_path / "child", capsys, (tmp_path / "child").mkdir)
    assert code == 130
    assert f"{tmp_path / 'child'} is complete" in message
    assert "again" not in message


def test_an_earlier_child_that_stayed_is_not_said_to_be_complete(tmp_path, capsys):
    (tmp_path / "child").mkdir()
    _, message = stopped(tmp_path / "child", capsys, lambda: None)
    assert "was not changed" in message


def test_signals_are_heeded_only_meanwhile_and_nohup_stays(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stops_cleanly(tmp_path / "child", ""):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert signal.getsignal(signal.SIGTERM) == before
