"""The command `evaluate` in two processes, as torchrun would start them: one result, which is that of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fusion_slerp
from tests.processes import HANG_S
from tests.rank_processes import free_port

pytestmark = pytest.mark.long

DEMO = Path(fusion_slerp.__file__).parent / "demo"


def run(count, *arguments):
    """Runs the command in some processes; returns the exit code and both outputs of each."""
    port = str(free_port())
    job = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "fusion_slerp", "evaluate", *arguments],
            env={**os.environ, **job, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    printed = [process.communicate(timeout=HANG_S) for process in processes]
    return [(each.returncode, *texts) for each, texts in zip(processes, printed, strict=True)]


def untimed(value):
    """A result without the figures that depend on the machine."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key != "tokens_per_s"}
    return value


def test_two_processes_evaluate_together(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((DEMO.parent / "merging.py").read_text()[:6000])
    words = (str(DEMO / "plays"), str(DEMO / "code"), "--text", f"t={text}", "--prompt", "To be", "--json")
    ((code, alone, _),) = run(1, *words)
    (first, second) = run(2, *words, "-o", str(tmp_path / "result.json"))
    assert (code, first[0], second[0]) == (0, 0, 0)
    assert untimed(json.loads(first[1])) == untimed(json.loads(alone))
    assert second[1:] == ("", "")
    assert untimed(json.loads((tmp_path / "result.json").read_text())) == untimed(json.loads(alone))


def test_an_error_is_shown_once(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be")
    first, second = run(2, str(DEMO / "plays"), "./nowhere", "--text", f"t={text}")
    assert (first[0], second[0]) == (2, 2)
    assert first[2].startswith("error: ./nowhere: model not found")
    assert second[1:] == ("", "")
