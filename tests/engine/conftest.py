"""Helpers for tests with threads."""

import threading

import pytest


@pytest.fixture
def somebody_waits(monkeypatch) -> threading.Event:
    """An event that is set once a thread other than the main one waits for a condition."""
    real, begun = threading.Condition.wait, threading.Event()

    def wait(condition, timeout=None):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
        return real(condition, timeout)

    monkeypatch.setattr(threading.Condition, "wait", wait)
    return begun
