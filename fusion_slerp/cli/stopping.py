"""Ctrl-C as an exception, for what has to be cleaned up when the command is stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from fusion_slerp.cli import stop_at_once


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """Raises KeyboardInterrupt at Ctrl-C inside, where the command would otherwise end at once."""
    is_ours = signal.getsignal(signal.SIGINT) is stop_at_once
    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, stop_at_once)
