"""Closed streams, closed pipes, full disks behind standard output: no traceback, a fitting exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fusion_slerp.cli.output import Output, system_error
from fusion_slerp.cli.streams import open_closed_streams
from tests.models import names_in

FULL = "/dev/full"

needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full on this system")


def run(words, redirected=""):
    """The command in a shell, with its streams redirected."""
    line = f'exec "$@" {redirected}'
    shell = ["sh", "-c", line, "sh", sys.executable, "-m", "fusion_slerp", *map(str, words)]
    return subprocess.run(shell, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(redirected):
    done = run([], redirected)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.long
def test_a_merge_with_closed_streams_is_made(tmp_path, parents):
    """The weight files must not get the descriptors of the streams."""
    done = run(["merge", *parents, "-o", tmp_path / "child"], "<&- >&- 2>&-")
    assert done.returncode == 0
    assert run(["verify", tmp_path / "child", "-q"]).returncode == 0


def test_the_descriptors_of_closed_streams_are_taken(tmp_path):
    code = "import os; from fusion_slerp.cli.streams import open_closed_streams; open_closed_streams(); "
    code += f"descriptor = os.open({str(tmp_path / 'file')!r}, os.O_RDWR | os.O_CREAT); print('lost'); "
    code += "assert descriptor > 2"
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(shell).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_open_streams_stay(monkeypatch):
    before = sys.stdin, sys.stdout, sys.stderr
    open_closed_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before


@needs_full
@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["inspect", "MODEL"], ["inspect", "MODEL", "--json"]]
)
def test_a_full_disk_behind_the_output(parents, words):
    done = run([parents[0] if word == "MODEL" else word for word in words], f">{FULL}")
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output cannot be written to\n  found: No space left on device\n"
        "Fix: free space where the output goes, or send it elsewhere\n"
    )


@needs_full
@pytest.mark.long
def test_a_full_disk_behind_the_result_of_a_merge(tmp_path, parents):
    """The model is there, and is said to be."""
    done = run(["merge", *parents, "-o", tmp_path / "child"], f">{FULL}")
    assert done.returncode == 1
    assert f"{tmp_path / 'child'} is complete" in done.stderr
    assert "standard output cannot be written to" in done.stderr
    assert "model.safetensors" in names_in(tmp_path / "child")


@needs_full
def test_a_full_disk_behind_the_errors_changes_no_exit_code(tmp_path):
    done = run(["inspect", tmp_path / "nowhere"], f"2>{FULL}")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["inspect", "MODEL"], ["inspect", "MODEL", "--json"]]
)
def test_a_pipe_that_nobody_reads(parents, words):
    reading, writing = os.pipe()
    os.close(reading)
    typed = [str(parents[0]) if word == "MODEL" else word for word in words]
    line = [sys.executable, "-m", "fusion_slerp", *typed]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_that_knows_few_characters(parents):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "fusion_slerp", "inspect", *map(str, parents)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xb0" in done.stdout  # degrees


def test_json_holds_names_that_are_not_utf8(capsys):
    Output(json=True).give(lambda: {"out": "A\udcff"})
    assert '"A\\udcff"' in capsys.readouterr().out


def test_a_refused_file_is_named_and_the_output_has_no_name():
    named = system_error(PermissionError(13, "Permission denied", "x"))
    assert named.fields == (("path", "x"), ("found", "Permission denied"))
    assert system_error(OSError(28, "No space left on device")).headline.startswith("standard output")
