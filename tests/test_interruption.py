"""Signals that end a process let a merge clean up; programs with their own handlers keep them."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from fusion_slerp.interruption import Terminated, dies_by_signals, signals_raise
from tests.models import names_in

MERGE = """
import os, signal, sys
import fusion_slerp.output.child_files as child_files
from fusion_slerp.output.staging import Staging
real = Staging.add
def add(self, file):
    real(self, file)
    os.kill(os.getpid(), getattr(signal, sys.argv[4]))
Staging.add = add
from fusion_slerp import merge
merge(*sys.argv[1:3], out=sys.argv[3], max_shard_size=100, threads=1)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_python_call_dies_by_the_signal_and_says_what_is_left(tmp_path, parents, name):
    words = [sys.executable, "-c", MERGE, *map(str, parents), str(tmp_path / "child"), name]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -getattr(signal, name)
    assert "stopped by a signal\nkept: " in done.stderr
    assert f"of 4 weight files, in {tmp_path / '.child.partial'}" in done.stderr
    assert f"fusion_slerp clean {tmp_path / 'child'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert names_in(tmp_path) == [".child.partial", "models"]


def test_signals_are_heeded_only_meanwhile_and_foreign_handlers_stay():
    received = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: received.append(number))
    try:
        with signals_raise() as heeded:
            assert list(heeded) == [signal.SIGTERM]
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(Terminated) as caught:
                signal.raise_signal(signal.SIGTERM)
        assert caught.value.number == signal.SIGTERM
        assert received == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_in_other_threads_nothing_is_heeded():
    found = []

    def inside():
        with signals_raise() as heeded:
            found.append(list(heeded))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [[]]


def test_a_signal_that_another_one_heeds_is_left_to_it():
    """As in the command, which handles it by itself."""
    with signals_raise(), pytest.raises(Terminated), dies_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
