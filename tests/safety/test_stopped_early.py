"""Ctrl-C in the first half second of the command, most of which goes to imports: no traceback."""

import signal
import subprocess
import sys
import time

import pytest

from tests.processes import HANG_S
from tests.safety.trials import trials

pytestmark = pytest.mark.trial

CODE = """
import sys
from fusion_slerp.cli import main
print("started", flush=True)
sys.argv[1:] = sys.argv[2:]
main()
"""

FIRST_S, LAST_S = 0.02, 0.5


def take_ctrl_c():
    """A shell lets commands in the background ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_at_many_moments_of_the_start(parents, figure):
    """From when Python and the command's first module have started: nothing of ours runs before."""
    n, n_stopped = trials(50, 10), 0
    for i in range(n):
        line = [sys.executable, "-c", CODE, "fusion_slerp", "plan", *map(str, parents)]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=take_ctrl_c
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(FIRST_S + (LAST_S - FIRST_S) * i / n)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANG_S)
        assert errors == ""
        assert process.returncode in (130, 0, -signal.SIGINT)  # 0: done; by the signal: Python was ending
        n_stopped += process.returncode == 130
    assert n_stopped
    figure(
        f"Ctrl-C at {n} moments from {FIRST_S} to {LAST_S} s: {n_stopped} stopped, {n - n_stopped} were done"
    )
