"""Signals that end a process let a merge clean up; programs with their own handlers keep them."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future

import pytest

from fusion_slerp import interruption
from fusion_slerp.interruption import (
    Terminated,
    dies_by_signals,
    heed,
    pool,
    result_of,
    signals_raise,
    signals_wait,
)
from tests.models import names_in


@pytest.fixture(autouse=True)
def ctrl_c_raises():
    """As usual; a shell lets commands in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


def test_a_second_signal_soon_after_the_first_is_ignored_and_a_later_one_is_not(monkeypatch):
    """The first may have been lost, in a callback of the garbage collector."""
    with signals_raise():
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(interruption, "AGAIN_S", 0.0)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)


# --- signals that wait ----------------------------------------------------------------------------------

RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
EACH = pytest.mark.parametrize("number", RAISED, ids=["Ctrl-C", "SIGTERM"])


@EACH
def test_a_signal_waits_until_it_is_heeded(number):
    with signals_raise(), signals_wait():
        signal.raise_signal(number)
        with pytest.raises(RAISED[number]):
            heed()
        heed()


@EACH
def test_a_signal_waits_until_the_end_if_nothing_heeds_it(number):
    reached = []

    @signals_wait()
    def work():
        signal.raise_signal(number)
        reached.append(True)

    with signals_raise(), pytest.raises(RAISED[number]):
        work()
    assert reached


@EACH
def test_a_signal_is_heeded_while_a_result_is_waited_for(number):
    """And no lock of the future stays locked: the thread that has the result can leave it."""
    future: Future[int] = Future()
    with signals_raise(), signals_wait():
        sender = threading.Timer(0.05, lambda: os.kill(os.getpid(), number))
        sender.start()
        with pytest.raises(RAISED[number]):
            result_of(future)
        future.set_result(3)
        assert result_of(future) == 3
        sender.join()


@EACH
def test_no_signal_is_lost_where_exceptions_are(number):
    class Thing:
        pass

    thing = Thing()
    callback = weakref.ref(thing, lambda _: signal.raise_signal(number))
    with signals_raise(), signals_wait():
        del thing
        assert callback() is None
        with pytest.raises(RAISED[number]):
            heed()


def test_one_that_comes_again_and_was_not_heeded_is_handled_at_once(monkeypatch):
    with signals_raise(), signals_wait():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # pressed twice
        monkeypatch.setattr(interruption, "PATIENCE_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            heed()


def test_foreign_handlers_are_called_later_and_are_there_again_afterwards():
    received = []

    def handler(number, frame):
        received.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with signals_wait():
            signal.raise_signal(signal.SIGTERM)
            assert received == []
            with signals_wait():  # of something that the work uses
                pass
            assert received == []
            heed()
            assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_is_set_inside_stays():
    before = signal.getsignal(signal.SIGINT)
    try:
        with signals_wait():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_heed_nothing():
    heeded = []

    def run():
        heed()
        heeded.append(True)

    with signals_wait():
        signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert heeded
        with pytest.raises(KeyboardInterrupt):
            heed()


def test_after_a_failure_a_pool_begins_nothing_more():
    begun, go_on = [], threading.Event()

    def task(k):
        begun.append(k)
        assert go_on.wait(300)

    def fail(threads):
        *_, last = [threads.submit(task, k) for k in range(5)]
        last.add_done_callback(lambda _: go_on.set())  # when it is cancelled
        while not begun:
            time.sleep(0.001)
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"), pool(1, "test") as threads:
        fail(threads)
    assert begun == [0]
