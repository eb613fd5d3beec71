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

from fusion_slerp import interruption, merge
from fusion_slerp.interruption import (
    Terminated,
    check_signals,
    deferred_signals,
    dies_by_signals,
    signals_raise,
)
from fusion_slerp.output.input_digests import hashed
from fusion_slerp.waiting import pool, result_of
from tests.models import names_in
from tests.processes import HANG_S

pytestmark = pytest.mark.usefixtures("ctrl_c_raises")

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
        monkeypatch.setattr(interruption, "IGNORE_REPEATS_S", 0.0)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)


# --- signals that are deferred --------------------------------------------------------------------------

RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
EACH = pytest.mark.parametrize("number", RAISED, ids=["Ctrl-C", "SIGTERM"])


@EACH
def test_a_signal_is_deferred_until_the_check(number):
    with signals_raise(), deferred_signals():
        signal.raise_signal(number)
        with pytest.raises(RAISED[number]):
            check_signals()
        check_signals()


@EACH
def test_a_signal_is_deferred_until_the_end_if_nothing_checks_for_it(number):
    reached = []

    @deferred_signals()
    def work():
        signal.raise_signal(number)
        reached.append(True)

    with signals_raise(), pytest.raises(RAISED[number]):
        work()
    assert reached


@EACH
def test_waiting_for_a_result_checks_for_signals(number):
    """And no lock of the future stays locked: the thread that has the result can leave it."""
    future: Future[int] = Future()
    too_late = threading.Timer(HANG_S, lambda: future.set_result(0))
    too_late.daemon = True
    too_late.start()
    with signals_raise(), deferred_signals():
        sender = threading.Timer(0.05, lambda: os.kill(os.getpid(), number))
        sender.start()
        with pytest.raises(RAISED[number]):
            result_of(future)
        too_late.cancel()
        future.set_result(3)
        assert result_of(future) == 3
        sender.join()


@EACH
def test_no_signal_is_lost_where_exceptions_are(number):
    class Thing:
        pass

    thing = Thing()
    callback = weakref.ref(thing, lambda _: signal.raise_signal(number))
    with signals_raise(), deferred_signals():
        del thing
        assert callback() is None
        with pytest.raises(RAISED[number]):
            check_signals()


def test_one_that_is_repeated_after_a_while_is_handled_at_once_and_only_once(monkeypatch):
    with deferred_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # pressed twice
        monkeypatch.setattr(interruption, "FORCE_AFTER_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        check_signals()


def test_several_signals_are_handled_in_order_and_those_after_the_first_dropped():
    def work():
        with deferred_signals():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            check_signals()

    with signals_raise(), pytest.raises(Terminated):
        work()


@pytest.fixture
def received():
    """The signals that a program's own handler of SIGTERM has received, with the code they interrupted."""
    found: list[tuple[int, str]] = []
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: found.append((number, frame.f_code.co_filename))
    )
    yield found
    signal.signal(signal.SIGTERM, before)


def test_foreign_handlers_are_called_later_and_are_there_again_afterwards(received):
    handler = signal.getsignal(signal.SIGTERM)
    with deferred_signals():
        signal.raise_signal(signal.SIGTERM)
        assert received == []
        with deferred_signals():  # of something that the work uses
            pass
        assert received == []
        check_signals()
        assert received == [(signal.SIGTERM, interruption.__file__)]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_is_set_inside_stays():
    with deferred_signals():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_handler_that_is_set_inside_is_deferred_by_what_comes_next():
    """As by a merge while the angles of other models are measured."""
    with deferred_signals(), signals_raise(), deferred_signals():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated):
            check_signals()


def test_other_threads_check_for_nothing():
    checked = []

    def run():
        check_signals()
        checked.append(True)

    with deferred_signals():
        signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert checked
        with pytest.raises(KeyboardInterrupt):
            check_signals()


def test_a_pool_defers_signals():
    with pool(1, "test") as threads:
        future = threads.submit(lambda: 1)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            result_of(future)


def test_digests_of_the_sources_defer_signals(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with hashed({"a": {"file": tmp_path / "file"}}, True) as digests:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            digests()


def test_after_a_failure_a_pool_begins_nothing_more():
    begun, go_on = [], threading.Event()

    def task(k):
        begun.append(k)
        assert go_on.wait(HANG_S)

    def fail(threads):
        *_, last = [threads.submit(task, k) for k in range(5)]
        last.add_done_callback(lambda _: go_on.set())  # when it is cancelled
        while not begun:
            time.sleep(0.001)
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"), pool(1, "test") as threads:
        fail(threads)
    assert begun == [0]


# --- a merge --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "left"),
    {
        "merging.write_weights": ".child.partial",
        "merging.write_beside": ".child.partial",
        "merging.write_records": ".child.partial",
        "output.staging.flush": ".child.partial",
        "merging.publish": "child",
    }.items(),
)
def test_a_step_of_a_merge_is_not_interrupted_but_the_next_is_not_begun(
    tmp_path, parents, monkeypatch, step, left
):
    module, name = f"fusion_slerp.{step}".rsplit(".", 1)
    real, ended = getattr(sys.modules[module], name), []

    def interrupted(*args, **kwargs):
        found = real(*args, **kwargs)
        signal.raise_signal(signal.SIGINT)
        ended.append(True)
        return found

    monkeypatch.setattr(sys.modules[module], name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(*parents, out=tmp_path / "child")
    assert ended
    assert names_in(tmp_path) == [left, "models"]


def test_a_context_that_ends_in_another_thread_changes_nothing_any_more():
    """As that of a generator which the garbage collector closes; no handler can be set there."""
    context = deferred_signals()
    context.__enter__()
    thread = threading.Thread(target=context.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with deferred_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check_signals()
